"""Set the environment variables that Ray reads when it is imported, and check those of the user.

Imports nothing heavy.
"""

from __future__ import annotations

import os
import secrets
import signal
from pathlib import Path
from types import FrameType

from trainables.errors import UserError

# A socket's path has at most 107 bytes on Linux, and Ray adds this to its folder for temporary
# files; the longest process id has seven digits.
MAX_SOCKET_BYTES = 107
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def on_cluster() -> bool:
    """Say whether a Ray cluster is given, as in a submitted job."""
    return os.environ.get("RAY_ADDRESS", "local") not in ("", "local")


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
        if not _holds_sockets(_temporary_folder()):
            defaults["RAY_TMPDIR"] = "/tmp"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    _spare_loopback_proxies()


def _spare_loopback_proxies() -> None:
    """Reach servers of this machine directly where a proxy is set for the others."""
    proxies = ("http_proxy", "https_proxy", "all_proxy")
    if any(os.environ.get(form) for name in proxies for form in (name, name.upper())):
        given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
        spared = ",".join(filter(None, (given, *LOOPBACK)))
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = spared


def _temporary_folder() -> str:
    """Return the folder in which Ray makes its own."""
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"


def _holds_sockets(folder: str) -> bool:
    return len(os.fsencode(folder + SOCKET)) <= MAX_SOCKET_BYTES


def check_environment() -> None:
    """Check the variables that decide whether Ray can start at all.

    Raises:
        UserError: says which one is wrong, and what to do.
    """
    try:
        Path.home()
    except RuntimeError:
        raise UserError(
            "HOME is not set, and this user has no home folder: set HOME to a folder of yours."
        ) from None
    if on_cluster():
        _check_address(os.environ["RAY_ADDRESS"])
        return
    folder = _temporary_folder()
    name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    if not _holds_sockets(folder):
        most = MAX_SOCKET_BYTES - len(SOCKET)
        raise UserError(
            f"{name} {folder} is too long for the sockets that Ray makes in it: name a folder of "
            f"at most {most} bytes."
        )
    if not (os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)):
        raise UserError(f"{name} {folder} is no folder that can be written: name another.")


def _check_address(address: str) -> None:
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS {address} is the address of a dashboard, to which jobs are submitted: "
            "submit the sweep with ray job submit, or unset it to run on this machine."
        )
    if "://" in address:
        raise UserError(
            f"RAY_ADDRESS {address} is for Ray Client, which Ray Tune does not run on: submit the "
            "sweep with ray job submit, or unset it to run on this machine."
        )


def notes() -> list[str]:
    """Say what of the user's environment was not followed, and why."""
    asked = os.environ.get("TMPDIR", "")
    moved = os.environ.get("RAY_TMPDIR") == "/tmp" and asked and not _holds_sockets(asked)
    if on_cluster() or not moved:
        return []
    return [f"note: TMPDIR {asked} is too long for Ray's sockets, so Ray's files go to /tmp"]


def interrupt_on_sigterm() -> None:
    """Make SIGTERM (``ray job stop``, a lost spot node) the same clean end as Ctrl-C.

    It is to be called again once Ray runs: Ray's core sets a handler of its own, which aborts.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
