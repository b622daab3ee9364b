"""The guardian: a small process of its own that owns a folder's embedded server.

One guardian, one server: neither outlives the other, and neither outlives the last
process that uses them. Three locks in the folder carry this. They are flocks: the kernel
drops them with their holder, however it dies.

    members.lock    shared by every attached process; exclusive for the guardian that closes
    guardian.lock   exclusive for the guardian
    server.lock     exclusive for the server, through a descriptor it inherits

Run as `python -I -S embedded_guard.py FOLDER SOCKET SERVER OPTION…`, on nothing but the
standard library, and little of that: it stays in memory as long as the server does.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress

MEMBERS, GUARDIAN, SERVER = "members.lock", "guardian.lock", "server.lock"
GRACE = 5.0  # seconds a server has to end by itself
LOOK = 0.2  # seconds between two looks for the last member


def main(folder: str, socket: str, *command: str) -> None:
    """Run the server while anyone is attached to the folder; return when all is gone."""
    os.closerange(3, 65536)  # A pipe or a listening socket of the starter's is not ours to hold.
    os.chdir(folder)
    guardian = open_lock(folder, GUARDIAN)
    if not try_lock(guardian, fcntl.LOCK_EX):
        return
    # The starter waits for the first process only. The second has the lock with it, and is
    # nobody's child: no zombie in the starter, no hang-up from its terminal.
    if os.fork():
        os._exit(0)
    os.setsid()
    write_pid(guardian)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())

    members = open_lock(folder, MEMBERS)
    closing = try_lock(members, fcntl.LOCK_EX)
    server = 0 if closing else start(folder, command)
    listens = time.monotonic() + GRACE
    try:
        while not closing and alive(server):
            time.sleep(LOOK)
            closing = try_lock(members, fcntl.LOCK_EX)
            # With its folder or its socket deleted, a server is of use to no one.
            if not is_at(members, folder, MEMBERS):
                break
            if os.path.exists(socket):
                listens = 0.0
            elif time.monotonic() > listens:
                break
    finally:
        if server:
            end(server, lambda: not alive(server))
    if closing and os.path.dirname(socket) != folder:
        with suppress(OSError):
            os.rmdir(os.path.dirname(socket))
    # In this order: whoever was kept waiting for the second may start a guardian at once.
    os.close(guardian)
    os.close(members)


def start(folder: str, command: tuple[str, ...]) -> int:
    """Start the server in a process group of its own; return its process id."""
    lock = open_lock(folder, SERVER)
    # A killed guardian's server may still run, and two would spoil one append-only file.
    # While the lock is held, someone of that group lives: its number is not yet another's.
    if not try_lock(lock, fcntl.LOCK_EX):
        with suppress(ValueError):
            end(int(os.pread(lock, 20, 0)), lambda: try_lock(lock, fcntl.LOCK_EX))
    if not try_lock(lock, fcntl.LOCK_EX):
        sys.exit("greenworker: the former server does not end")
    guardian = os.getpid()
    server = os.fork()
    if not server:
        try:
            os.setpgid(0, 0)
            write_pid(lock)
            os.set_inheritable(lock, True)
            end_with(guardian)
            os.execv(command[0], command)
        except OSError as error:
            print(f"greenworker: {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        finally:
            os._exit(127)
    with suppress(OSError):  # Both do it, so that the group is there for whoever looks first.
        os.setpgid(server, server)
    os.close(lock)
    return server


def end_with(guardian: int) -> None:
    """Have this process end when the guardian is killed.

    Only Linux' kernel does it; elsewhere the next guardian ends what it finds.
    """
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):
            import ctypes  # Here: only the child pays for it, and it is about to be replaced.

            pr_set_pdeathsig = 1
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGTERM))
    if os.getppid() != guardian:
        os._exit(0)


def end(group: int, gone: Callable[[], bool]) -> None:
    """Ask the group to end; after `GRACE` seconds, make it."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if gone():
            return
        with suppress(OSError):
            os.killpg(group, sign)
        deadline = time.monotonic() + GRACE
        while not gone() and time.monotonic() < deadline:
            time.sleep(0.02)


def alive(child: int) -> bool:
    """Whether the child still runs; one that has ended is reaped."""
    try:
        return os.waitpid(child, os.WNOHANG)[0] == 0
    except ChildProcessError:
        return False


def open_lock(folder: str, name: str) -> int:
    """Open a lock file for this process alone: the descriptor is closed on exec."""
    return os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT, 0o600)


def try_lock(lock: int, how: int) -> bool:
    """Take the lock without waiting; False when someone else's stands against it."""
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(lock: int, folder: str, name: str) -> bool:
    """Whether the open lock is still the file of that name: a folder may be deleted under us."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(os.path.join(folder, name)))
    except OSError:
        return False


def write_pid(lock: int) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
