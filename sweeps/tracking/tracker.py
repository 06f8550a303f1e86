"""Watch a sweep and have it written to MLflow: a parent run, a child for each trunk and cell.

    parent   figures, report, leaderboard, spec, choice; system metrics; the registered model
    trunk    metrics by epoch; the weights of those that cells are made from, as a logged model
    cell     the four axes as its only parameters, val accuracy, its rows and predictions; what
             each arm changed, as a logged model made from the trunk's

The driver is the only writer, and it never waits: every write is a job in an outbox. A server that
is away only delays it; what a server refuses is told in a line, and the other jobs are done. The
sweep's store remembers the runs that lack something, and the next driver, which sees all events
again, writes those again: writing again changes nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

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
from sweeps.redaction import redacted, without_credentials
from sweeps.tracking.access.preflight import Connection
from sweeps.tracking.cell_run import CellRunWriter
from sweeps.tracking.datasets import ImageDatasets
from sweeps.tracking.delivery.answers import answered_status, call_of, judge, reason_of
from sweeps.tracking.delivery.outbox import Job, Labelled, Outbox
from sweeps.tracking.delivery.shortfall import Shortfall, shortfall_path
from sweeps.tracking.logged_models import LoggedModels
from sweeps.tracking.model_registry import Candidate, ModelRegistry
from sweeps.tracking.payloads import Results
from sweeps.tracking.runs import SWEEP_KEY, NoRunError, RunStore, cell_key, trunk_key
from sweeps.tracking.sweep_run import SweepRunWriter
from sweeps.tracking.system_metrics import SystemMetricsSampler
from sweeps.tracking.trunk_run import TrunkRunWriter
from sweeps.tracking.ui_links import ui_command
from trainables.storage.artifact_store import Store
from trainables.training.trunk import TrunkStatus

PATIENCE_S = 600.0  # with a server that is away when the sweep is done
DELETED_STATUSES = frozenset((400, 404))  # what a request for a run that was deleted is answered


class MlflowTracker:
    """Watches a sweep and writes it to MLflow in a thread of its own.

    Args:
        sweep_id: tells the sweep's runs from others; the same after a restart.
        name: of the parent run.
        store: of the sweep.
        notify: called with a sentence when the tracking server goes away, when it is back, and when
            it refuses something.
        may_write: whether this process is still the sweep's driver, asked before each write.
    """

    def __init__(
        self,
        connection: Connection,
        sweep_id: str,
        name: str,
        store: Store,
        notify: Callable[[str], None] = lambda _: None,
        may_write: Callable[[], bool] = lambda: True,
    ):
        self._uri, self._notify = connection.uri, notify
        self._may_write = may_write
        self._shortfall = Shortfall(shortfall_path(store))
        self._runs = RunStore(
            connection.client, connection.experiment_id, sweep_id, self._shortfall
        )
        datasets, self._models = ImageDatasets(self._runs), LoggedModels(self._runs)
        self._sweep = SweepRunWriter(self._runs, datasets, name)
        self._trunks = TrunkRunWriter(self._runs, datasets, self._models, store)
        self._cells = CellRunWriter(self._runs, datasets, self._models, store)
        self._registry = ModelRegistry(self._runs, notify)
        self._sampler: SystemMetricsSampler | None = None
        self._planned: list[str] = []  # keys of the cells that are planned by now
        self._written: list[Labelled] = []  # all jobs, to be done again where runs were deleted
        self._refusals: Counter[str] = Counter()  # by sentence
        self._rewritings = 0
        self._waited_s: float | None = None
        self._is_closed = False
        self._outbox = Outbox(
            judge=judge,
            recover=self._reload,
            idle_jobs=self._deferred_jobs,
            notify=lambda words: notify(f"MLflow {words}"),
            describe=self._reason,
            on_given_up=self._on_given_up,
            may_go_on=may_write,
        )

    def ui_command(self) -> str:
        """Return the command that opens MLflow's UI at this sweep, or the UI's address."""
        return ui_command(self._uri, self._runs.experiment_id, self._runs.sweep_id)

    # --- what is written ----------------------------------------------------------------------

    def on(self, event: Event) -> None:
        """Have an event written."""
        at_ms = int(time.time() * 1000)
        match event:
            case SweepBegan(plan=plan):
                self._trunks.define(plan)
                self._write(SWEEP_KEY, partial(self._sweep.begin, plan, at_ms))
                self._write(SWEEP_KEY, self._sweep.log_view)
                self._start_sampler()
            case TrunkBegan(trunk=trunk):
                self._write(trunk_key(trunk.key), partial(self._trunks.log_images, trunk, at_ms))
            case EpochEnded(trunk=trunk, report=report):
                job = partial(self._trunks.defer_epoch, trunk, report, at_ms)
                self._write(trunk_key(trunk.key), job)
            case TrunkEnded(trunk=trunk, status=status, reports=reports):
                key = trunk_key(trunk.key)
                self._write(key, partial(self._trunks.log_images, trunk, at_ms))
                self._write(key, partial(self._trunks.end, trunk, status, reports, at_ms))
            case CellsPlanned(cells=cells, is_last=is_last):
                self._planned += [cell.key for cell in cells]
                if is_last:
                    self._write(SWEEP_KEY, partial(self._cells.mark_former, self._planned))
                    self._planned = []
                for trunk in {cell.trunk.key: cell.trunk for cell in cells}.values():
                    if trunk.is_untouched:  # it has no training that would have been told of
                        ended = TrunkStatus.FINISHED
                        job = partial(self._trunks.end, trunk, ended, (), at_ms)
                        self._write(trunk_key(trunk.key), job)
                    self._write(trunk_key(trunk.key), partial(self._trunks.log_model, trunk))
            case CellBegan(cell=cell):
                self._write(cell_key(cell.key), partial(self._cells.begin, cell, at_ms))
            case CellEnded(cell=cell, rows=rows):
                for step in self._cells.steps_to_end(cell, rows, at_ms):
                    self._write(cell_key(cell.key), step)

    def attach(self, files: Sequence[Path], folder: str = "") -> None:
        """Have files added to the parent's artifacts, into a folder of theirs if one is named."""
        for path in files:
            self._write(SWEEP_KEY, partial(self._sweep.log_file, path, folder))

    def write_results(self, results: Results) -> None:
        """Have the choice and the whole leaderboard written to the parent."""
        self._write(SWEEP_KEY, partial(self._sweep.log_results, results))
        self._write(SWEEP_KEY, partial(self._sweep.log_leaderboard, results.rows))

    def register_model(self, candidate: Candidate) -> None:
        """Have the sweep's model registered; see :meth:`ModelRegistry.register`."""
        self._write(SWEEP_KEY, partial(self._registry.register, candidate))

    def keep_only(self, trunks: Collection[str], cells: Collection[str]) -> None:
        """Have the logged models of all other trunks and cells deleted, with their files.

        Args:
            trunks: keys in the store.
            cells: keys in the store.
        """
        keys = {*map(trunk_key, trunks), *map(cell_key, cells), SWEEP_KEY}
        self._outbox.put("", partial(self._models.keep_only, keys))

    def _write(self, key: str, job: Job) -> None:
        """Have a job done after all that were put before it. It may be done twice.

        Args:
            key: of the run that it writes to.
        """
        self._written.append((key, job))
        self._outbox.put(key, job)

    def _start_sampler(self) -> None:
        if self._sampler is None:
            self._sampler = SystemMetricsSampler(self._on_sample)

    def _on_sample(self, values: Mapping[str, float], at_ms: int) -> None:
        self._outbox.put(SWEEP_KEY, partial(self._sweep.defer_system_metrics, values, at_ms))

    def _deferred_jobs(self) -> list[Labelled]:
        return [(key, partial(self._runs.log_metrics, key)) for key in self._runs.deferred_keys]

    # --- what MLflow refuses, or has lost -----------------------------------------------------

    def _on_given_up(self, key: str, error: Exception) -> None:
        """Note and tell what was refused; where runs were deleted in MLflow, write them anew."""
        if key:
            self._runs.drop_deferred(key)
            self._shortfall.note(key)
        if isinstance(error, NoRunError):
            return  # That the run could not be created has been told.
        if answered_status(error) in DELETED_STATUSES and self._are_runs_gone():
            return
        call = call_of(error)
        what = f"refused {call}" if call else "could not be written to"
        words = f"{what} ({self._reason(error)})"
        if words not in self._refusals:
            self._notify(f"MLflow {words}; the sweep goes on")
        self._refusals[words] += 1

    def _reason(self, error: Exception) -> str:
        return redacted(reason_of(error), self._uri)

    def _are_runs_gone(self) -> bool:
        try:
            return self._reload()
        except Exception:  # What it was is of no use: the request that failed is told.
            return False

    def _reload(self) -> bool:
        """Find the sweep's runs in MLflow, and have all written anew if any were deleted there.

        Returns:
            Whether any were.
        """
        gone = self._runs.reload()
        if gone:
            self._notify(f"MLflow has lost {len(gone)} runs of this sweep: they are written anew")
            self._rewritings += 1
            self._outbox.put("", self._forgive)  # once the jobs before it have failed for this
            for key, job in list(self._written):
                self._outbox.put(key, job)
        return bool(gone)

    def _forgive(self) -> None:
        self._shortfall.forgive()
        self._refusals.clear()

    @property
    def shortcoming(self) -> str | None:
        """Why MLflow lacks something, as the end of a sentence that it begins; None: it does not.

        It is known once the tracker is closed.
        """
        if self._waited_s is not None:
            where = without_credentials(self._uri)
            return f"at {where} has not answered for {self._waited_s / 60:.0f} minutes"
        if self._refusals:
            (words, count), *others = self._refusals.most_common()
            times = f", {count} times" if count > 1 else ""
            more = f", and {len(others)} other things" if others else ""
            return f"{words}{times}{more}"
        return None if self._shortfall.is_empty else "refused a run"

    # --- when it is written -------------------------------------------------------------------

    def flush(self, patience_s: float = PATIENCE_S) -> bool:
        """Wait until everything is written or refused; False: MLflow was away for so long."""
        try:
            self._outbox.flush(patience_s)
        except TimeoutError:
            return False
        return True

    def begin_closing(self) -> None:
        """Take note that all of the sweep has been told: what MLflow lacks now is sent later."""
        self._shortfall.begin_closing()

    def close(self, status: str, patience_s: float = PATIENCE_S) -> None:
        """Write what is left, end every run that is still open, and stop.

        Args:
            status: of runs that are still open: "FINISHED", "FAILED" or "KILLED".
            patience_s: with a server that is away.
        """
        if self._is_closed:
            return
        self._is_closed = True
        if self._sampler is not None:
            self._sampler.stop()
        if not self._may_write():  # The runs are the next driver's now.
            self._outbox.stop()
            return
        if not self._end(status, patience_s):
            self._waited_s = patience_s
            for key in {*self._outbox.left, *self._runs.deferred_keys} - {""}:
                self._shortfall.note(key)
        self._outbox.stop()
        self._shortfall.settle()

    def _end(self, status: str, patience_s: float) -> bool:
        """End the runs when all is written, and again if it is written anew; as :meth:`flush`."""
        rewritings = -1
        while rewritings != self._rewritings:
            rewritings = self._rewritings
            self._outbox.put(SWEEP_KEY, partial(self._end_runs, status))
            if not self.flush(patience_s):
                return False
        return True

    def _end_runs(self, status: str) -> None:
        self._reload()  # It says which are open: of runs that have ended nothing is asked.
        for key in sorted(self._runs.open_keys, key=lambda k: k == SWEEP_KEY):
            self._outbox.put(key, partial(self._runs.end_if_running, key, status))
