"""GilAlarm beside a program with signals of its own, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

HEAD = """
import signal, sys, threading, time
from greenworker.worker import gil
from greenworker.worker.gil import GilAlarm

gil._REARM = gil._DUMP_LATE = gil._END_LATE = 0.0  # each wind() counts, and at once
heard = []

def hear(*_):
    heard.append(1)

def eventually(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
"""


def check(program: str) -> None:
    code = textwrap.dedent(HEAD) + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_handler_of_sigvtalrm_that_comes_later_is_the_programs() -> None:
    """A profiler, say: neither a wind nor the stop may put the default action over it."""
    check(
        """
        alarm = GilAlarm(30.0, 0.0)
        alarm.wind()
        signal.signal(signal.SIGVTALRM, hear)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.02, 0.02)
        for step in (lambda: None, alarm.wind, alarm.stop):
            step()
            heard.clear()
            eventually(lambda: heard)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        """
    )


@pytest.mark.parametrize("looked", [True, False])
def test_a_handler_of_sigvtalrm_that_comes_and_goes(looked: bool) -> None:
    """What is left then is the default action, which ends the process: no timer of ours may come to it."""
    check(
        f"""
        alarm = GilAlarm(0.5, 0.0)
        alarm.wind()
        signal.signal(signal.SIGVTALRM, hear)
        if {looked}:
            alarm.wind()
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
        alarm.wind()
        time.sleep(1.5)
        assert not heard
        """
    )


def test_after_that_a_new_start_shows_stacks_again() -> None:
    code = textwrap.dedent(HEAD) + textwrap.dedent(
        """
        alarm = GilAlarm(0.2, 0.0)
        alarm.wind()
        signal.signal(signal.SIGVTALRM, hear)
        alarm.stop()
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
        alarm.wind()
        time.sleep(1.0)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert "Stack (most recent call first)" in done.stderr


def test_a_faulthandler_of_the_programs_own_is_left_alone() -> None:
    code = textwrap.dedent(HEAD) + textwrap.dedent(
        """
        import faulthandler, os
        faulthandler.register(signal.SIGVTALRM, file=sys.stdout)
        alarm = GilAlarm(30.0, 0.0)
        alarm.wind()
        alarm.stop()
        os.kill(os.getpid(), signal.SIGVTALRM)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Current thread" in done.stdout


def test_a_handler_of_sigalrm_that_comes_later_hears_nothing_of_ours() -> None:
    check(
        """
        for leave in (GilAlarm.wind, GilAlarm.stop):
            alarm = GilAlarm(0.0, 30.0)
            alarm.wind()
            assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
            time.sleep(0.3)
            signal.signal(signal.SIGALRM, hear)
            leave(alarm)
            assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        """
    )


@pytest.mark.parametrize("every", [0.0, 0.5])
def test_and_its_own_timer_goes_on(every: float) -> None:
    check(
        f"""
        for leave in (GilAlarm.wind, GilAlarm.stop):
            alarm = GilAlarm(0.0, 30.0)
            alarm.wind()
            signal.signal(signal.SIGALRM, hear)
            signal.setitimer(signal.ITIMER_REAL, 0.5, {every})
            leave(alarm)
            alarm.stop()
            heard.clear()
            eventually(lambda: heard)
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        """
    )


def test_two_threads_that_wind_first_make_one_timer() -> None:
    check(
        """
        made = []

        class Dump(gil._Dump):
            def __init__(self):
                made.append(1)
                time.sleep(0.2)
                super().__init__()

        gil._Dump = Dump
        alarm = GilAlarm(30.0, 0.0)
        threads = [threading.Thread(target=alarm.wind) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert made == [1]
        """
    )
