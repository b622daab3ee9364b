"""The GIL held in C code: no Python runs meanwhile. What notices it, and what acts without Python."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import sys
import time
from contextlib import suppress

_REARM = 1.0  # seconds: the alarm clocks are wound again so often
_DUMP_LATE = 4.0  # seconds past `block_warn`: a machine may be so late, or a process stopped
_END_LATE = (
    2.0  # seconds past `max_block`: who can, ends the process in Python, with a better message
)
# Its default action would end the process; nobody else has been seen to use it.
_DUMP = signal.SIGVTALRM


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
    """Acts while no Python can: shows the main thread's stack 4 s after `block_warn`, ends the
    process 2 s after `max_block`.

    For the owner of the process only: it uses SIGVTALRM, SIGALRM and ITIMER_REAL. 0 leaves the
    first (`block_warn`) or the others (`max_block`) alone; so does the program's own handler of
    the signal.
    """

    def __init__(self, block_warn: float, max_block: float) -> None:
        self._end_after = max_block + _END_LATE if max_block else 0.0
        self._dump_after = block_warn + _DUMP_LATE if block_warn else 0.0
        if self._dump_after and self._end_after:
            self._dump_after = min(self._dump_after, self._end_after - 1.0)
        self._timer: _Timer | None = None
        self._wound = 0.0  # when; 0: not at all
        self._will_end = False

    def wind(self) -> None:
        """Not yet: Python runs. To be called more often than once a second, from any thread."""
        now = time.monotonic()
        if now - self._wound < _REARM:
            return
        if not self._wound and self._dump_after and _is_free(_DUMP):
            self._timer = _dump_timer()
        self._wound = now
        if self._timer is not None:
            self._timer.set(self._dump_after if _is_free(_DUMP) else 0.0)
        if self._end_after:
            # SIG_DFL ends the process, and needs no Python for it.
            self._will_end = _is_free(signal.SIGALRM)
            if self._will_end:
                signal.setitimer(signal.ITIMER_REAL, self._end_after)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.close()
            faulthandler.unregister(_DUMP)
        if self._will_end and _is_free(signal.SIGALRM):
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._timer, self._wound, self._will_end = None, 0.0, False


def _is_free(number: signal.Signals) -> bool:
    """Whether the program has no handler of its own (faulthandler's is not counted)."""
    return signal.getsignal(number) is signal.SIG_DFL


def _dump_timer() -> _Timer | None:
    """A timer that shows the main thread's stack; None where the system has none.

    The main thread shows it itself, in faulthandler's signal handler. A thread that looked at it
    from outside (`faulthandler.dump_traceback_later`) has been seen to die of SIGSEGV, when a process
    that was frozen went on at the same moment.
    """
    if not sys.platform.startswith("linux") or ctypes.sizeof(ctypes.c_long) != 8:
        return None
    # stderr may be closed, or something without a descriptor.
    with suppress(OSError, ValueError, RuntimeError):
        faulthandler.register(_DUMP, file=sys.__stderr__ or 2, all_threads=False)
        with suppress(OSError, AttributeError):
            return _Timer(_DUMP)
        faulthandler.unregister(_DUMP)
    return None


class _Timer:
    """A timer of the kernel's that sends a signal to the main thread (timer_create(2), 64-bit Linux).

    Neither a fork nor an exec inherits it.
    """

    class _Event(ctypes.Structure):  # struct sigevent
        _fields_ = (
            ("value", ctypes.c_void_p),
            ("signo", ctypes.c_int),
            ("notify", ctypes.c_int),
            ("thread_id", ctypes.c_int),
            ("_rest", ctypes.c_char * 44),
        )

    class _Spec(ctypes.Structure):  # struct itimerspec
        _fields_ = (
            ("every_s", ctypes.c_long),
            ("every_ns", ctypes.c_long),
            ("in_s", ctypes.c_long),
            ("in_ns", ctypes.c_long),
        )

    _TO_A_THREAD = 4  # SIGEV_THREAD_ID

    def __init__(self, number: signal.Signals) -> None:
        # PyDLL: who gives up the GIL for these may wait for it again.
        self._libc = ctypes.PyDLL(None)
        self._id = ctypes.c_void_p()
        # A process's first thread has the process's number.
        event = self._Event(signo=number, notify=self._TO_A_THREAD, thread_id=os.getpid())
        made = self._libc.timer_create(
            time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._id)
        )
        if made != 0:
            raise OSError("timer_create")

    def set(self, seconds: float) -> None:
        """Once, after so many seconds; 0: never."""
        whole = int(seconds)
        spec = self._Spec(in_s=whole, in_ns=int((seconds - whole) * 1e9))
        self._libc.timer_settime(self._id, 0, ctypes.byref(spec), None)

    def close(self) -> None:
        self._libc.timer_delete(self._id)
