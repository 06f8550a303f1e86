import signal
import subprocess
import sys
import textwrap

import pytest

from tests.waiting import HANG_S
from trainables.training.preemption import EXIT_CODE

START = """
import signal, sys, time
from trainables.training.preemption import PreemptionGuard
guard = PreemptionGuard()
"""


def process(*lines):
    """A process that says when it is ready."""
    script = textwrap.dedent(START) + "\n".join(lines)
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def signalled(*lines, signals=(signal.SIGTERM,)):
    """What it said after the signals, and its exit code."""
    with process(*lines) as started:
        assert started.stdout.readline() == "ready\n"
        for one in signals:
            started.send_signal(one)
        said, _ = started.communicate(timeout=HANG_S)
    return said, started.returncode


def test_idle_in_a_call_that_runs_no_python_it_ends_at_once():
    # A lock waits in C for as long as it takes, as an actor does for its next call.
    idle = "import threading; threading.Lock().acquire(); threading.Event().wait()"
    said, code = signalled("guard.install()", "print('ready', flush=True)", idle)
    assert (said, code) == ("", EXIT_CODE)


def test_work_that_asked_for_it_is_put_away_first():
    said, code = signalled(
        "guard.install()",
        "with guard.deferred():",
        "    print('ready', flush=True)",
        "    while not guard.requested: time.sleep(0.01)",
        "    print('put away', flush=True)",
        "print('gone on', flush=True)",
    )
    assert (said, code) == ("put away\n", EXIT_CODE)


def test_work_that_fails_after_a_notice_ends_the_process_all_the_same():
    said, code = signalled(
        "guard.install()",
        "with guard.deferred():",
        "    print('ready', flush=True)",
        "    while not guard.requested: time.sleep(0.01)",
        "    raise ValueError",
    )
    assert (said, code) == ("", EXIT_CODE)


def test_an_earlier_handler_is_replaced_and_other_signals_are_left_alone():
    said, code = signalled(
        "signal.signal(signal.SIGTERM, lambda *_: print('earlier', flush=True))",
        "seen = []",
        "other = lambda *_: seen.append(print('other', flush=True))",
        "signal.signal(signal.SIGUSR1, other)",
        "guard.install()",
        "print('ready', flush=True)",
        "while not seen: time.sleep(0.01)",
        "print('given', guard.requested, flush=True)",
        signals=(signal.SIGUSR1,),
    )
    assert (said, code) == ("other\ngiven False\n", 0)


def test_without_a_notice_nothing_ends():
    lines = ["guard.install()", "with guard.deferred(): pass", "print('ready', flush=True)"]
    assert signalled(*lines, signals=()) == ("", 0)


def test_it_cannot_be_installed_off_the_main_thread():
    with process(
        "from concurrent.futures import ThreadPoolExecutor",
        "try: ThreadPoolExecutor().submit(guard.install).result()",
        "except ValueError: print('main thread only')",
    ) as started:
        assert started.communicate(timeout=HANG_S)[0] == "main thread only\n"


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)
