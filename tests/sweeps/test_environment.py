"""Variables of the process's environment that Ray reads."""

from __future__ import annotations

import os
import signal

import pytest

from sweeps.environment import interrupt_on_sigterm, on_cluster, set_environment


def test_a_cluster_is_one_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for address, expected in ((None, False), ("", False), ("10.0.0.1:6379", True)):
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        if address is not None:
            monkeypatch.setenv("RAY_ADDRESS", address)
        assert on_cluster() is expected


@pytest.mark.parametrize("cluster", [True, False])
def test_environment_is_set_where_it_is_not(monkeypatch: pytest.MonkeyPatch, cluster: bool) -> None:
    for name in list(os.environ):
        if name.startswith(("RAY_", "TUNE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "1")  # the user's own choice stays
    if cluster:
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    before = set(os.environ)
    try:
        set_environment()
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert os.environ["RAY_AIR_NEW_OUTPUT"] == "1"
        assert ("RAY_AUTH_TOKEN" in os.environ) is not cluster
    finally:
        for name in set(os.environ) - before:
            del os.environ[name]


def test_sigterm_interrupts() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        interrupt_on_sigterm()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
