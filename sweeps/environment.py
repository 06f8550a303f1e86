"""Set the environment variables that Ray reads when it is imported. Imports nothing heavy."""

from __future__ import annotations

import os
import secrets
import signal
from types import FrameType


def on_cluster() -> bool:
    """Say whether a Ray cluster is given, as in a submitted job."""
    return bool(os.environ.get("RAY_ADDRESS"))


def set_environment() -> None:
    """Set variables that libraries read when imported; those that are set stay as they are."""
    defaults = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # The console has a line on each; the store, its trace.
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches the driver, whose store is consistent.
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        # Threads that spin while they wait: a third faster on two idle cores, 2.6 times slower
        # where one other process wants a core.
        "OMP_WAIT_POLICY": "passive",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "ORT_DISABLE_TELEMETRY": "1",
    }
    if on_cluster():
        # The autoscaler sees more than one trial at a time.
        defaults["TUNE_MAX_PENDING_TRIALS_PG"] = "16"
    else:
        # A token that is in memory alone keeps others from using this private Ray.
        defaults |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        # All its processes listen on loopback; the name tells of another of its uses.
        defaults["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def interrupt_on_sigterm() -> None:
    """Make SIGTERM (``ray job stop``, a lost spot node) the same clean end as Ctrl-C.

    It is to be called again once Ray runs: Ray's core sets a handler of its own, which aborts.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
