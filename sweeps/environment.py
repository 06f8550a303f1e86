"""What must stand in the process's environment before Ray is imported. Imports nothing heavy."""

from __future__ import annotations

import os
import secrets
import signal
from types import FrameType


def on_cluster() -> bool:
    """Whether a Ray cluster is given, as in a submitted job."""
    return bool(os.environ.get("RAY_ADDRESS"))


def set_environment() -> None:
    """Ray's switches that must stand before it is imported."""
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # they are told in a line; the trace is in the store
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches the driver, whose store is whole
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        # Threads that spin while they wait: a third faster on two idle cores, 2.6 times slower
        # where one other process wants a core.
        "OMP_WAIT_POLICY": "passive",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    if on_cluster():
        quiet["TUNE_MAX_PENDING_TRIALS_PG"] = "16"  # the autoscaler sees more than one at a time
    else:
        # A token of its own, in memory alone: the private Ray is nobody else's to use.
        quiet |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for name, value in quiet.items():
        os.environ.setdefault(name, value)


def interrupt_on_sigterm() -> None:
    """Make SIGTERM (``ray job stop``, a lost spot node) the same clean end as Ctrl-C.

    Called again once Ray is up: its core has a handler of its own, which aborts.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
