"""spot_notice.py against a metadata service on loopback and processes that are really there."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from ray import tune
from ray.scripts.scripts import cli
from ray.train.v2._internal.execution.worker_group import worker

from clusters import spot_notice
from tests.waiting import HANG_S
from trainables.ray_backend.tune_trainables import StoreTrainable

Answer = tuple[int, str]


@contextmanager
def metadata(answer: Callable[[str, str, dict[str, str]], Answer]) -> Iterator[str]:
    """A server whose answers are ``answer(method, path, headers)``; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            code, text = answer(self.command, self.path, headers)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        do_PUT = do_GET  # noqa: N815 (the name that http.server calls)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Aws:
    """IMDSv2: nothing without a token; instance-action is not there before the notice."""

    def __init__(self, quiet: int):
        self.quiet = quiet  # polls before the notice
        self.tokens: set[str] = set()

    def __call__(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        if (method, path) == ("PUT", "/latest/api/token"):
            assert 1 <= int(headers["x-aws-ec2-metadata-token-ttl-seconds"]) <= 21600
            self.tokens.add(token := f"token{len(self.tokens)}")
            return 200, token
        if headers.get("x-aws-ec2-metadata-token") not in self.tokens:
            return 401, ""
        if path != "/latest/meta-data/spot/instance-action":
            return 500, ""
        self.quiet -= 1
        return (404, "") if self.quiet >= 0 else (200, '{"action": "terminate"}')


class Gcp:
    """FALSE until the notice; nothing without Google's header."""

    def __init__(self, quiet: int):
        self.quiet = quiet

    def __call__(self, method: str, path: str, headers: dict[str, str]) -> Answer:
        if headers.get("metadata-flavor") != "Google":
            return 403, ""
        if (method, path) != ("GET", "/computeMetadata/v1/instance/preempted"):
            return 404, ""
        self.quiet -= 1
        return 200, "FALSE\n" if self.quiet >= 0 else "TRUE\n"


CLOUDS = [(Aws, spot_notice.noticed_by_aws), (Gcp, spot_notice.noticed_by_gcp)]


@pytest.mark.parametrize(("cloud", "noticed"), CLOUDS)
def test_the_notice_is_seen_when_it_comes_and_not_before(cloud, noticed):
    with metadata(cloud(quiet=2)) as base:
        assert [noticed(base) for _ in range(4)] == [False, False, True, True]


@pytest.mark.parametrize(("cloud", "noticed"), CLOUDS)
def test_waiting_outlives_a_service_that_fails(cloud, noticed, capfd):
    answer, broken = cloud(quiet=1), iter([True, True])

    def flaky(method: str, path: str, headers: dict[str, str]) -> Answer:
        return (503, "") if next(broken, False) else answer(method, path, headers)

    with metadata(flaky) as base:
        spot_notice.wait_for_notice(lambda: noticed(base), 0.01)
    assert answer.quiet < 0
    assert capfd.readouterr().err.count("503") == 2


def test_a_service_that_is_not_there_is_an_os_error():
    with metadata(Gcp(quiet=0)) as base:
        pass
    for noticed in (spot_notice.noticed_by_aws, spot_notice.noticed_by_gcp):
        with pytest.raises(OSError, match="refused"):
            noticed(base)


def test_trials_are_known_by_the_name_that_ray_gives_them():
    # As sweeps.execution.phases wraps them. Ray takes the last part of the class's qualified name.
    wrapped = tune.with_resources(tune.with_parameters(StoreTrainable, context=None), {"CPU": 1})
    for each in (wrapped, StoreTrainable, worker.RayTrainWorker):
        title = f"ray::{each.__qualname__.rpartition('.')[2]}.train"
        assert title.startswith(spot_notice.TRIALS)


STUBBORN = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: {})
print("ready", flush=True)
time.sleep(3600)
"""


@contextmanager
def process(title: str, on_sigterm: str) -> Iterator[subprocess.Popen[str]]:
    """A Python whose command line begins with ``title``, as Ray's workers' do."""
    code = STUBBORN.format(on_sigterm)
    started = subprocess.Popen(
        ["bash", "-c", 'exec -a "$0" "$1" -c "$2"', title, sys.executable, code],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "ready\n"
    # A child that ended stays in /proc until it is waited for.
    reaper = threading.Thread(target=started.wait)
    reaper.start()
    try:
        yield started
    finally:
        started.kill()
        reaper.join()
        started.stdout.close()


SAVES = "(time.sleep(0.3), print('saved', flush=True), sys.exit(0))"


# No title that a Ray gives: other trials may be running on this machine.
OURS = f"test-{os.getpid()}::"


@pytest.fixture
def drained(monkeypatch) -> list[int]:
    """Where the seconds go that Ray would be told."""
    calls: list[int] = []
    monkeypatch.setattr(spot_notice, "drain", calls.append)
    monkeypatch.setattr(spot_notice, "TRIALS", (f"{OURS}Trial", f"{OURS}Worker"))
    return calls


def test_trials_save_and_end_and_others_are_left_alone(drained, capsys):
    with (
        process(f"{OURS}Trial.train", SAVES) as trunk,
        process(f"{OURS}Worker.poll", SAVES) as worker,
        process(f"{OURS}IDLE", "print('hit', flush=True)") as other,
    ):
        assert spot_notice.main(["now", "--wait", "20"]) == 0
        assert drained == [20]
        for each in (trunk, worker):
            assert each.wait(HANG_S) == 0
            assert each.stdout is not None and each.stdout.read() == "saved\n"
        assert other.poll() is None
        os.kill(other.pid, 15)  # its first: no notice was sent to it
        assert other.stdout is not None and other.stdout.readline() == "hit\n"
    assert "all trials have ended" in capsys.readouterr().out


def test_a_trial_is_told_once_and_given_up_in_the_end(drained, capsys):
    with process(f"{OURS}Trial.train", "print('hit', flush=True)") as trial:
        start = time.monotonic()
        assert spot_notice.main(["now", "--wait", "1"]) == 1
        assert time.monotonic() - start >= 1
        trial.kill()
        assert trial.stdout is not None and trial.stdout.read() == "hit\n"
        assert str(trial.pid) in capsys.readouterr().out


def test_without_a_ray_to_drain_the_trials_are_told_all_the_same(monkeypatch, capfd):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    spot_notice.drain(5)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    spot_notice.drain(5)
    assert capfd.readouterr().err.count("the node could not be drained") == 2


def test_ray_knows_the_command_that_drains(monkeypatch):
    asked: list[list[str]] = []

    def run(command: list[str], check: bool, timeout: float) -> None:
        asked.append(command)

    monkeypatch.setattr(subprocess, "run", run)
    spot_notice.drain(5)
    (command,) = asked
    assert command[:4] == [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
    # Raises on an option that it does not know, or that is missing; calls nothing.
    context = cli.commands["drain-node"].make_context("drain-node", command[4:])
    assert context.params["reason"] == "DRAIN_NODE_REASON_PREEMPTION"
    assert context.params["deadline_remaining_seconds"] == 5
