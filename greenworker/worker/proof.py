"""Proof that a process of this host is gone: then nobody needs to wait for its lease.

A name or a pid alone prove nothing: pids are used again, and containers have their own. A process is
gone when this very boot of this host, in these very pid and time namespaces, has no process of that
pid, or has one that began at another moment. Without /proc (macOS) there is no proof, and leases decide.
(Virtual machines that were cloned from one running memory look like one host: docs/reliability.md.)
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_CLOCK = "/proc/self/ns/time"


def mark() -> dict[str, Any] | None:
    """What others need to prove that this process is gone; None where that cannot be had."""
    pid = os.getpid()
    try:
        return {**_place(), "pid": pid, "began": _began(pid)}
    except (OSError, ValueError, IndexError):
        return None


def is_gone(mark: Any) -> bool:
    """Whether the process that left this mark is provably gone; False when in doubt."""
    try:
        pid, began = mark["pid"], mark["began"]
        if not isinstance(pid, int) or {**mark, **_place()} != mark:
            return False
        try:
            return bool(_began(pid) != began)
        except (FileNotFoundError, ProcessLookupError):
            # Hidden (hidepid) is not gone.
            return not _exists(pid)
    except (OSError, ValueError, IndexError, KeyError, TypeError, OverflowError):
        return False


def _place() -> dict[str, str]:
    if os.readlink("/proc/self") != str(os.getpid()):
        raise ValueError("this /proc shows another pid namespace")
    return {
        "host": socket.gethostname(),
        "boot": _BOOT.read_text().strip(),
        "namespace": os.readlink("/proc/self/ns/pid"),
        # Ticks are counted from the boot as the reader's time namespace has it.
        "clock": os.readlink(_CLOCK) if os.path.lexists(_CLOCK) else "",
    }


def _began(pid: int) -> int:
    """When a process began, in clock ticks since the boot (field 22 of proc(5)'s stat); -1: it
    has ended, and its parent has not noticed yet."""
    # The second field is the program's name, in brackets, and may hold anything.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    threads = 0 if fields[0] not in "ZX" else len(os.listdir(f"/proc/{pid}/task"))
    return -1 if threads == 1 else int(fields[19])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
