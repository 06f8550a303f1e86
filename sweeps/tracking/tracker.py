"""Watch a sweep and have it written to MLflow: a parent run, a child for each trunk and cell.

    parent   figures, report, leaderboard, spec, choice; system metrics; the registered model
    trunk    metrics by epoch; the weights of those that cells are made from, as a logged model
    cell     the three axes as its only parameters, val accuracy, its rows and predictions; what
             each arm changed, as a logged model made from the trunk's

The driver is the only writer, and it never waits: every write is a job in an outbox, which a
server that is away only delays. A driver that was killed may leave jobs undone; the next driver
sees all events again and does them, since writing again changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from mlflow.exceptions import MlflowException

from sweeps.events.event_types import (
    CellBegan,
    CellEnded,
    CellsPlanned,
    EpochEnded,
    Event,
    SweepBegan,
    TrunkBegan,
    TrunkEnded,
)
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row
from sweeps.tracking.cell_run import CellRunWriter
from sweeps.tracking.connection import (
    is_transient,
    open_experiment,
    quiet_client,
    set_request_environment,
    unusable_store,
    why_not_written,
)
from sweeps.tracking.datasets import ImageDatasets
from sweeps.tracking.logged_models import LoggedModels
from sweeps.tracking.model_registry import ModelRegistry
from sweeps.tracking.outbox import Job, Outbox
from sweeps.tracking.runs import SWEEP_KEY, RunStore, cell_key, trunk_key
from sweeps.tracking.sweep_run import SweepRunWriter
from sweeps.tracking.system_metrics import SystemMetricsSampler
from sweeps.tracking.trunk_run import TrunkRunWriter
from sweeps.tracking.ui_links import ui_command, without_credentials
from trainables.errors import SweepError
from trainables.storage.artifact_store import Store

PATIENCE_S = 600.0  # with a server that is away when the sweep is done


class MlflowTracker:
    """Watches a sweep and writes it to MLflow in a thread of its own.

    Args:
        uri: of the tracking store.
        experiment: its name; it is created if it does not exist.
        sweep_id: tells the sweep's runs from others; the same after a restart.
        name: of the parent run.
        store: of the sweep.
        notify: called with a sentence when the tracking server goes away, and when it is back.

    Raises:
        UserError: the tracking store does not answer, or the experiment has been deleted.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        sweep_id: str,
        name: str,
        store: Store,
        notify: Callable[[str], None] = lambda _: None,
    ):
        set_request_environment()
        self._uri, client = uri, quiet_client(uri)
        try:
            self._runs = RunStore(client, open_experiment(client, uri, experiment), sweep_id)
        except MlflowException as error:
            raise unusable_store(uri, error) from None
        datasets, self._models = ImageDatasets(self._runs), LoggedModels(self._runs)
        self._sweep = SweepRunWriter(self._runs, datasets, name)
        self._trunks = TrunkRunWriter(self._runs, datasets, self._models, store)
        self._cells = CellRunWriter(self._runs, datasets, self._models, store)
        self._registry = ModelRegistry(self._runs)
        self._sampler: SystemMetricsSampler | None = None
        self._outbox = Outbox(
            is_transient=is_transient,
            recover=self._runs.reload,
            on_idle=self._runs.log_deferred,
            notify=lambda words: notify(f"MLflow {words}"),
            describe=why_not_written,
        )

    def ui_command(self) -> str:
        """Return the command that opens MLflow's UI at this sweep, or the UI's address."""
        return ui_command(self._uri, self._runs.experiment_id, self._runs.sweep_id)

    # --- what is written ----------------------------------------------------------------------

    def on(self, event: Event) -> None:
        """Have an event written."""
        at_ms = int(time.time() * 1000)
        self._put(lambda: self._write(event, at_ms))

    def attach(self, files: Sequence[Path], folder: str = "") -> None:
        """Have files added to the parent's artifacts, into a folder of theirs if one is named."""
        self._put(lambda: self._sweep.log_files(files, folder))

    def write_results(self, choice: Choice, rows: Sequence[Row]) -> None:
        """Have the choice and the whole leaderboard written to the parent."""
        self._put(lambda: self._sweep.log_results(choice, rows))

    def register_model(self, folder: Path, name: str, tags: Mapping[str, str]) -> None:
        """Have the sweep's model registered; see :meth:`ModelRegistry.register`."""

        def register() -> None:
            self._registry.register(folder, name, tags)

        self._put(register)

    def keep_only(self, trunks: Collection[str], cells: Collection[str]) -> None:
        """Have the logged models of all other trunks and cells deleted, with their files.

        Args:
            trunks: keys in the store.
            cells: keys in the store.
        """
        keys = {*map(trunk_key, trunks), *map(cell_key, cells), SWEEP_KEY}
        self._put(lambda: self._models.keep_only(keys))

    # --- when it is written -------------------------------------------------------------------

    def flush(self, patience_s: float = PATIENCE_S) -> None:
        """Wait until everything is written.

        Raises:
            SweepError: the server has been away for ``patience_s``.
            Exception: what a write raised that would not have helped to try again.
        """
        try:
            self._outbox.flush(patience_s)
        except TimeoutError:
            raise SweepError(
                f"MLflow ({without_credentials(self._uri)}) has not answered for "
                f"{patience_s / 60:.0f} minutes: all results are in OUT, and the same command "
                "again writes what MLflow lacks."
            ) from None

    def close(self, status: str, patience_s: float = PATIENCE_S) -> None:
        """Write what is left, end every run that is still open, and stop.

        Args:
            status: of runs that are still open: "FINISHED", "FAILED" or "KILLED".

        Raises:
            SweepError: the server has been away for ``patience_s``.
            Exception: what a write raised that would not have helped to try again.
        """
        if self._sampler is not None:
            self._sampler.stop()
        self._put(lambda: self._runs.end_all(status))
        try:
            self.flush(patience_s)
        finally:
            self._outbox.stop()

    def _put(self, job: Job) -> None:
        """Have a job done after all that were put before it. It may be done twice."""
        self._outbox.put(job)

    def _write(self, event: Event, at_ms: int) -> None:
        match event:
            case SweepBegan(plan=plan):
                self._sweep.begin(plan, at_ms)
                self._start_sampler()
            case TrunkBegan(trunk=trunk):
                self._trunks.begin(trunk, at_ms)
            case EpochEnded(trunk=trunk, report=report):
                self._trunks.defer_epoch(trunk, report, at_ms)
            case TrunkEnded(trunk=trunk, status=status, reports=reports):
                self._trunks.end(trunk, status, reports, at_ms)
            case CellsPlanned(cells=cells):
                for trunk in {cell.trunk.key: cell.trunk for cell in cells}.values():
                    self._trunks.log_model(trunk)
            case CellBegan(cell=cell):
                self._cells.begin(cell, at_ms)
            case CellEnded(cell=cell, rows=rows):
                self._cells.end(cell, rows, at_ms)

    def _start_sampler(self) -> None:
        if self._sampler is None:
            self._sampler = SystemMetricsSampler(self._on_sample)

    def _on_sample(self, values: Mapping[str, float], at_ms: int) -> None:
        self._put(lambda: self._sweep.defer_system_metrics(values, at_ms))
