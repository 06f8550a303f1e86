"""Track one sweep: by which MLflow, from its first to its last word there, and what it lacks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from sweeps.output.location import SweepLocation
from sweeps.output.sweep_record import SweepRecord
from sweeps.planning.spec import SweepSpec
from sweeps.tracking.access.connection import default_uri, sqlite_uri
from sweeps.tracking.access.moved_folder import DATABASE
from sweeps.tracking.access.preflight import Connection, check_address, connect
from sweeps.tracking.tracker import MlflowTracker
from sweeps.tracking.ui_links import followed_ui

# Seconds that MLflow gets to take what is still to be sent, where the sweep did not end well.
STOPPED_PATIENCE_S = 5.0


def tracking_option(spec: SweepSpec) -> str | None:
    """Name what the user gave the address of MLflow by; None: it is a file in OUT."""
    if spec.tracking.tracking_uri:
        return "--tracking-uri"
    return "MLFLOW_TRACKING_URI" if os.environ.get("MLFLOW_TRACKING_URI") else None


def check_tracking(spec: SweepSpec) -> None:
    """Check MLflow's address, as far as it shows without a request.

    Raises:
        UserError: MLflow cannot be used by it.
    """
    if option := tracking_option(spec):
        check_address(_tracking_uri(spec, spec.output.out), option)


def connect_tracking(spec: SweepSpec, out: Path, say: Callable[[str], None]) -> Connection:
    """Connect the MLflow of a sweep: see :func:`sweeps.tracking.access.preflight.connect`."""
    option = tracking_option(spec) or "MLflow's database"
    return connect(_tracking_uri(spec, out), spec.tracking.experiment, option, say)


def _tracking_uri(spec: SweepSpec, out: Path) -> str:
    return spec.tracking.tracking_uri or default_uri(out)


@contextmanager
def tracked(
    connection: Connection, location: SweepLocation, sweep: str, say: Callable[[str], None]
) -> Iterator[MlflowTracker]:
    """Open a tracker; at the end it tells MLflow whether the sweep finished, failed or was killed.

    Args:
        sweep: id of the sweep.
    """
    name, store, driver = location.out.name, location.store, location.driver
    tracker = MlflowTracker(connection, sweep, name, store, say, driver.may_write)
    try:
        yield tracker
    except BaseException as error:
        with suppress(Exception):  # An error of MLflow must not hide why the sweep ended.
            status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            tracker.close(status, STOPPED_PATIENCE_S)
        raise
    tracker.close("FINISHED")


def say_shortcoming(tracker: MlflowTracker, out: Path, say: Callable[[str], None]) -> None:
    """Say what MLflow lacks of a finished sweep, if it lacks anything: it costs nothing else."""
    if tracker.shortcoming is not None:
        say(
            f"warning: MLflow lacks part of this sweep, as it {tracker.shortcoming}: all results "
            f"are in {out}, and the same command again tries to send the rest"
        )


def with_followed_ui(record: SweepRecord, spec: SweepSpec, out: Path) -> SweepRecord:
    """Return the record with the command for MLflow's UI that is right where OUT is now."""
    if spec.tracking.tracking_uri is not None or not (out / DATABASE).exists():
        return record
    followed = replace(record, ui=followed_ui(record.ui, sqlite_uri(out / DATABASE)))
    if followed != record:
        followed.write(out)
    return followed
