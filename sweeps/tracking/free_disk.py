"""Delete the checkpoints that a finished sweep is not to keep, here and in MLflow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sweeps.output import retention
from sweeps.output.location import SweepLocation
from sweeps.planning.spec import SweepSpec
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row
from sweeps.tracking.access.preflight import Connection
from sweeps.tracking.session import connect_tracking, tracked


def free_disk(
    spec: SweepSpec,
    location: SweepLocation,
    sweep: str,
    rows: Sequence[Row],
    choice: Choice,
    say: Callable[[str], None],
    connection: Connection | None,
) -> None:
    """Delete what ``--keep`` does not retain: in MLflow first, as a failure there loses nothing.

    Args:
        sweep: id of the sweep.
        say: shows a line to the user.
        connection: to MLflow, if it is connected already.
    """
    store = location.store
    keep, refit = spec.output.keep, spec.evaluation.refit
    retained = retention.keys_to_retain(rows, choice, keep, refit=refit)
    if not retention.deletable_files(store, retained):
        return
    connection = connection or connect_tracking(spec, location.out, say)
    with tracked(connection, location, sweep, say) as tracker:
        tracker.keep_only(retained.trunks, retained.cells)
    if tracker.shortcoming is not None:
        say(
            f"warning: --keep {keep} freed nothing, as MLflow {tracker.shortcoming}: "
            "the same command again tries it again"
        )
        return
    location.driver.check()
    freed_bytes = retention.prune(store, retained)
    say(f"kept     {keep}: {freed_bytes / 1e6:,.1f} MB of the store freed")
