"""The environment that Ray is imported in, and how SIGTERM ends the driver."""

from __future__ import annotations

import os
import signal

import pytest

from sweeps.environment import interrupt_on_sigterm, on_cluster, set_environment


@pytest.mark.parametrize("cluster", [True, False])
def test_variables_that_are_not_set_get_a_default(
    monkeypatch: pytest.MonkeyPatch, cluster: bool
) -> None:
    for name in list(os.environ):
        if name.startswith(("RAY_", "TUNE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "1")  # The user's own choice stays.
    if cluster:
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    before = set(os.environ)
    try:
        assert on_cluster() is cluster
        set_environment()
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert os.environ["RAY_AIR_NEW_OUTPUT"] == "1"
        assert ("RAY_AUTH_TOKEN" in os.environ) is not cluster
    finally:
        for name in set(os.environ) - before:
            del os.environ[name]


def test_sigterm_ends_the_driver_as_ctrl_c_does() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        interrupt_on_sigterm()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
