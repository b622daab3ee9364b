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

from gevent import monkey

_allocate_lock = monkey.get_original("_thread", "allocate_lock")

_REARM = 1.0  # seconds: the alarm clocks are wound again so often
_DUMP_LATE = 4.0  # seconds past `block_warn`: a machine may be so late, or a process stopped
_END_LATE = (
    2.0  # seconds past `max_block`: who can, ends the process in Python, with a better message
)
_EXACT = 0.005  # seconds: so exactly we know how much is left of a timer of ours
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
    the signal, whenever it comes.
    """

    def __init__(self, block_warn: float, max_block: float) -> None:
        self._end_after = max_block + _END_LATE if max_block else 0.0
        self._dump_after = block_warn + _DUMP_LATE if block_warn else 0.0
        if self._dump_after and self._end_after:
            self._dump_after = min(self._dump_after, self._end_after - 1.0)
        self._winding = _allocate_lock()
        self._dump: _Dump | None = None
        self._wound = 0.0  # when; 0: not at all
        self._ends: tuple[float, float] | None = None  # between these moments ITIMER_REAL is over

    def wind(self) -> None:
        """Not yet: Python runs. To be called more often than once a second, from any thread."""
        now = time.monotonic()
        if now - self._wound < _REARM or not self._winding.acquire(False):
            return  # or another thread winds
        try:
            if not self._wound and self._dump_after:
                self._dump = _dump()
            self._wound = now
            self._wind_dump()
            if self._end_after:
                self._wind_end()
        finally:
            self._winding.release()

    def stop(self) -> None:
        if self._dump is not None:
            self._dump.close()
        if self._ends is not None:
            if _is_free(signal.SIGALRM):
                signal.setitimer(signal.ITIMER_REAL, 0)
            else:
                self._leave_alarm()
        self._dump, self._wound, self._ends = None, 0.0, None

    def _wind_dump(self) -> None:
        if self._dump is None:
            return
        if self._dump.is_ours:
            self._dump.set(self._dump_after)
        else:
            # For good: whoever had a handler may take it away again, and ours is gone.
            self._dump.close()
            self._dump = None

    def _wind_end(self) -> None:
        if not _is_free(signal.SIGALRM):
            self._leave_alarm()
            return
        # SIG_DFL ends the process, and needs no Python for it.
        before = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, self._end_after)
        self._ends = (before + self._end_after, time.monotonic() + self._end_after)

    def _leave_alarm(self) -> None:
        """To the program: its handler is not to hear of our timer, and its own timer goes on."""
        if self._ends is None:
            return
        before = time.monotonic()
        left, every = signal.getitimer(signal.ITIMER_REAL)
        earliest, latest = self._ends[0] - time.monotonic(), self._ends[1] - before
        if not every and earliest - _EXACT < left < latest + _EXACT:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._ends = None


def _is_free(number: signal.Signals) -> bool:
    """Whether the program has no handler of its own (faulthandler's is not counted)."""
    return signal.getsignal(number) is signal.SIG_DFL


def _dump() -> _Dump | None:
    """None where the system has none, or the signal is somebody else's."""
    if not sys.platform.startswith("linux") or ctypes.sizeof(ctypes.c_long) != 8:
        return None
    # stderr may be closed, or something without a descriptor.
    with suppress(OSError, ValueError, RuntimeError, AttributeError):
        return _Dump()
    return None


class _Dump:
    """A timer that shows the main thread's stack. Raises OSError and others where there can be none.

    The main thread shows it itself, in faulthandler's signal handler. A thread that looked at it
    from outside (`faulthandler.dump_traceback_later`) has been seen to die of SIGSEGV, when a process
    that was frozen went on at the same moment.
    """

    def __init__(self) -> None:
        if not _is_free(_DUMP) or any(_action(_DUMP)):
            raise OSError("the signal is somebody else's")
        # An earlier one may have been left behind under a handler that is gone.
        faulthandler.unregister(_DUMP)
        faulthandler.register(_DUMP, file=sys.__stderr__ or 2, all_threads=False)
        self._handler = _action(_DUMP)
        try:
            self._timer = _Timer(_DUMP)
        except BaseException:
            faulthandler.unregister(_DUMP)
            raise

    @property
    def is_ours(self) -> bool:
        """Whether the handler is still faulthandler's; Python itself does not know of that one."""
        return _action(_DUMP) == self._handler

    def set(self, seconds: float) -> None:
        """Once, after so many seconds."""
        self._timer.set(seconds)

    def close(self) -> None:
        self._timer.close()
        if self.is_ours:
            # Else it would put the default action, which ends the process, over the program's.
            faulthandler.unregister(_DUMP)


def _action(number: signal.Signals) -> bytes:
    """What the kernel knows to do at a signal: the part that tells handlers apart, all 0 for SIG_DFL."""
    action = ctypes.create_string_buffer(512)  # struct sigaction
    ctypes.PyDLL(None).sigaction(number, None, action)
    return action.raw[:16]


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
        if not hasattr(self._libc, "timer_create"):
            self._libc = ctypes.PyDLL("librt.so.1")  # glibc before 2.34
        self._id = ctypes.c_void_p()
        # A process's first thread has the process's number.
        event = self._Event(signo=number, notify=self._TO_A_THREAD, thread_id=os.getpid())
        made = self._libc.timer_create(
            time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._id)
        )
        if made != 0:
            raise OSError("timer_create")

    def set(self, seconds: float) -> None:
        """Once, after so many seconds."""
        whole = int(seconds)
        spec = self._Spec(in_s=whole, in_ns=int((seconds - whole) * 1e9))
        self._libc.timer_settime(self._id, 0, ctypes.byref(spec), None)

    def close(self) -> None:
        self._libc.timer_delete(self._id)
