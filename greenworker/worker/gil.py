"""The GIL held in C code: no Python runs meanwhile. What notices it, and what acts without Python."""

from __future__ import annotations

import faulthandler
import resource
import signal
import sys
import time
from contextlib import suppress

_REARM = 1.0  # seconds: the alarm clocks are wound again so often, at 180 µs
# Seconds without Python after which stacks are dumped: the fewer where `max_block` leaves no more.
# faulthandler walks them without the GIL, so nobody may be running Python then: a process that was
# frozen for longer, and is continued, has been seen to die of it (SIGSEGV).
_DUMP_AFTER, _DUMP_AFTER_LEAST = 10.0, 2.0
_END_LATE = (
    2.0  # seconds past `max_block`: who can, ends the process in Python, with a better message
)


def switches() -> int:
    """How often this thread has ever given up the processor by itself; 0 where nobody counts it."""
    if not hasattr(resource, "RUSAGE_THREAD"):
        return 0
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def waited_for(switches: int) -> float:
    """Seconds that this thread has at most waited for a GIL that was not given up, by so many switches.

    Who waits for it wakes up once per switch interval to ask for it again (ceval_gil.c): each is a
    voluntary context switch. A thread of a process that is stopped never wakes up, so that this
    tells a held GIL from SIGSTOP, also when what holds it only sleeps. 0 where the kernel does not
    count a thread's switches (macOS).
    """
    return switches * sys.getswitchinterval()


class GilAlarm:
    """Acts while no Python can: dumps all stacks after 10 s, ends the process after `max_block`.

    For the owner of the process only: there is one `faulthandler.dump_traceback_later` and one
    ITIMER_REAL a process. 0 leaves the one (`block_warn`) or the other (`max_block`) alone; so does
    a SIGALRM handler of the program's own.
    """

    def __init__(self, block_warn: float, max_block: float) -> None:
        self._end_after = max_block + _END_LATE if max_block else 0.0
        dump_after = _DUMP_AFTER
        if max_block:
            dump_after = max(_DUMP_AFTER_LEAST, min(_DUMP_AFTER, self._end_after / 2))
        self._dump_after = block_warn + dump_after if block_warn else 0.0
        self._wound = 0.0  # when; 0: not at all
        self._will_end = False

    def wind(self) -> None:
        """Not yet: Python runs. To be called more often than once a second, from any thread."""
        now = time.monotonic()
        if now - self._wound < _REARM:
            return
        self._wound = now
        if self._dump_after:
            # stderr may be closed, or something without a descriptor.
            with suppress(OSError, ValueError, RuntimeError):
                faulthandler.dump_traceback_later(self._dump_after, file=sys.__stderr__ or 2)
        if self._end_after:
            # SIG_DFL ends the process, and needs no Python for it.
            self._will_end = signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
            if self._will_end:
                signal.setitimer(signal.ITIMER_REAL, self._end_after)

    def stop(self) -> None:
        if self._wound and self._dump_after:
            faulthandler.cancel_dump_traceback_later()
        if self._will_end and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._wound, self._will_end = 0.0, False
