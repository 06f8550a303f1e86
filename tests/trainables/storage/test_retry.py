"""Actions that are tried again while a store does not answer."""

from __future__ import annotations

import errno
import logging

import pytest

from trainables.errors import SweepError
from trainables.storage import retry
from trainables.storage.retry import first_line, is_transient, with_retries


class Flaky:
    """An action that fails some times and then gives 7."""

    def __init__(self, failures: int, error: OSError) -> None:
        self.tries, self._failures, self._error = 0, failures, error

    def __call__(self) -> int:
        self.tries += 1
        if self.tries <= self._failures:
            raise self._error
        return 7


def test_an_action_is_tried_until_it_succeeds_and_one_warning_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    action = Flaky(6, OSError("AWS Error SLOW_DOWN\nmore"))
    with caplog.at_level(logging.WARNING):
        assert with_retries(action, "out/x") == 7
    assert action.tries == 7
    assert pauses == [0.5, 1, 2, 4, 8, 10]
    assert caplog.messages == ["out/x: AWS Error SLOW_DOWN; trying again"]


def test_a_long_outage_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "MAX_OUTAGE_S", 0.0)
    monkeypatch.setattr(retry, "MAX_PAUSE_S", 0.01)
    tries = []

    def act() -> None:
        tries.append(1)
        raise OSError("AWS Error NETWORK_CONNECTION during PutObject operation: no route\nmore")

    with pytest.raises(SweepError, match=r"out/x could not be .*no route\): the same command"):
        with_retries(act, "out/x")
    assert len(tries) <= 2


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError("AWS Error SLOW_DOWN during PutObject operation"), True),
        (OSError("AWS Error UNKNOWN (HTTP status 503) during PutObject operation"), True),
        (OSError("AWS Error ACCESS_DENIED during PutObject operation"), False),
        (OSError("AWS Error UNKNOWN (HTTP status 403) during HeadObject operation"), False),
        (OSError(errno.ENOSPC, "full"), False),  # see test_full_disk.py
        (OSError(errno.EIO, "input/output error"), True),
        (PermissionError(errno.EACCES, "denied"), False),
        (FileNotFoundError(errno.ENOENT, "none"), False),
    ],
)
def test_errors_that_may_pass(error: OSError, expected: bool) -> None:
    assert is_transient(error) is expected


def test_nothing_is_tried_again_that_cannot_pass() -> None:
    tries = []

    def act() -> None:
        tries.append(1)
        raise PermissionError(errno.EACCES, "denied")

    with pytest.raises(PermissionError):
        with_retries(act, "x")
    assert len(tries) == 1


@pytest.mark.parametrize(
    ("error", "quoted"),
    [
        (OSError("one\ntwo"), "one"),
        (OSError(), "OSError"),
        (ValueError("x" * 300), "x" * 200),
    ],
)
def test_an_error_is_quoted_by_its_first_line(error: Exception, quoted: str) -> None:
    assert first_line(error) == quoted
