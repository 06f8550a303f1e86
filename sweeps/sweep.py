"""The story of a sweep, top to bottom: spec -> plan -> trunks -> cells -> leaderboard -> choice
-> model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sweeps.events.event_types import SweepBegan, Watchers
from sweeps.events.recorders import History, LiveBoard
from sweeps.execution.phases import run_cells, run_trunks
from sweeps.execution.ray_cluster import RayCluster
from sweeps.final_model.held_out import score_choice
from sweeps.final_model.model_folder import write_model
from sweeps.final_model.outcome import (
    Outcome,
    ServedModel,
    read_outcome,
    served_as_swept,
    write_choice,
)
from sweeps.final_model.refit import refit
from sweeps.output import folder, retention
from sweeps.output.location import BOARD, SweepLocation, check_same, location_of
from sweeps.output.sweep_record import SPEC, SweepRecord, new_sweep_record
from sweeps.planning import plan as planning
from sweeps.planning.dataset import open_images
from sweeps.planning.plan import Plan
from sweeps.planning.spec import SweepSpec, identity
from sweeps.report.build import write_evidence
from sweeps.report.model_card import model_card
from sweeps.scheduling.cell_scheduler import CellScheduler, cells_of
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from sweeps.selection import leaderboard
from sweeps.selection.choice import choose
from sweeps.selection.leaderboard import Row
from sweeps.selection.published_comparison import comparisons_of_recipe
from sweeps.selection.row_latency import with_latencies
from sweeps.terminal.console import Terminal
from sweeps.terminal.plan_tables import plan_view
from sweeps.terminal.result_tables import summary
from sweeps.tracking.connection import default_uri
from sweeps.tracking.tracker import MlflowTracker
from trainables.data.image_set import ImageSet
from trainables.errors import SweepError, UserError
from trainables.fixres.cell import recorded_hits
from trainables.models import variants
from trainables.models.weights import Weights, find_weights
from trainables.ray_backend.tune_trainables import TrialContext
from trainables.storage.artifact_store import Store
from trainables.storage.files import Place, make_writable
from trainables.training.trunk import recorded_reports

STOPPED_PATIENCE_S = 5.0  # with MLflow, where the sweep did not come to its end


def run(spec: SweepSpec, terminal: Terminal) -> None:
    """Run the sweep, or go on with it.

    Raises:
        UserError: it cannot be run as it is asked for.
    """
    out = folder.find_folder(spec)
    storage = location_of(out, spec.output.storage)
    make_writable(spec.cache, "cache_dir")
    if spec.run.dry_run:
        images, _ = open_images(spec, terminal)
        terminal.console.print(plan_view(planning.build_plan(spec, images, ())))
        return
    made_anew = not out.exists()
    make_writable(out, "out")
    with folder.locked(out), storage.opened(terminal.say):
        bare = not (out / SPEC).exists()
        try:
            _run(spec, storage, terminal, bare=bare)
        except UserError:
            if bare and not storage.store.journal.exists():
                folder.remove_unfinished(out, made_anew)
            raise


def _run(spec: SweepSpec, storage: SweepLocation, terminal: Terminal, *, bare: bool) -> None:
    out, store = storage.out, storage.store
    # Weights out of reach are known at once, not after the images have been decoded.
    weights = _weights(spec, store) if bare else []
    images, data = open_images(spec, terminal)
    asked = identity(spec, images.digest)
    record = folder.read_matching_record(out, asked)
    if record:
        check_same(record, storage)
    outcome = read_outcome(out, spec.extra_test_sets)
    if outcome is None:
        plan = planning.build_plan(spec, images, weights or _weights(spec, store))
        if record is None:
            uri = storage.remote.uri if storage.remote else None
            record = new_sweep_record(spec, asked, uri, images.classes)
            record.write(out)
        folder.write_rejected(out, images)
        terminal.console.print(plan_view(plan))
        with _tracked(spec, storage, record.sweep, terminal) as tracking:
            sweep = _Sweep(plan, images, data, storage, record, tracking, terminal)
            with RayCluster(spec.resources) as cluster:
                outcome = sweep.conclude(sweep.trials(cluster), cluster)
        record = replace(record, ui=tracking.ui_command())
        record.write(out)
        write_choice(out, outcome)
        storage.publish_results()
    assert record is not None, "a finished sweep has a record"
    _tell(terminal, storage, outcome, spec, record.ui)
    _prune(spec, storage, record.sweep, outcome, terminal)


def _weights(spec: SweepSpec, store: Store) -> list[Weights]:
    return [find_weights(variants.get(v), spec.grid.weights, store) for v in spec.grid.variants]


@contextmanager
def _tracked(
    spec: SweepSpec, storage: SweepLocation, sweep: str, terminal: Terminal
) -> Iterator[MlflowTracker]:
    """MLflow, which knows in the end how it went."""
    out = storage.out
    uri = spec.tracking.tracking_uri or default_uri(out)
    tracking = MlflowTracker(
        uri, spec.tracking.experiment, sweep, out.name, storage.store, terminal.say
    )
    try:
        yield tracking
    except BaseException as error:
        with suppress(Exception):  # what went wrong matters more than how it is tracked
            status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            tracking.close(status, STOPPED_PATIENCE_S)
        raise
    tracking.close("FINISHED")


@dataclass(frozen=True)
class _Sweep:
    """One run of the story, and all that its chapters share."""

    plan: Plan
    images: ImageSet
    data: Place
    storage: SweepLocation
    record: SweepRecord
    tracking: MlflowTracker
    terminal: Terminal

    @property
    def out(self) -> Path:
        return self.storage.out

    @property
    def store(self) -> Store:
        return self.storage.store

    def trials(self, cluster: RayCluster) -> tuple[list[Row], History]:
        """Both phases. Ray is started only if there is something left to do."""
        plan, store, history = self.plan, self.store, History()
        board = LiveBoard(*self.storage.boards)
        watcher = Watchers([self.tracking, self.terminal, history, board])
        watcher.on(SweepBegan(plan=plan))
        self.tracking.attach([self.out / SPEC])
        self.storage.publish(SPEC)
        trunk_scheduler = TrunkScheduler(plan, store, watcher)
        if not trunk_scheduler.is_over:
            run_trunks(trunk_scheduler, self._context(), cluster.placement)
        survivors = [
            (t, tuple(recorded_reports(store, t.key))) for t in trunk_scheduler.survivors()
        ]
        if not survivors:
            raise SweepError("No trunk could be trained: see the messages above.")
        cell_scheduler = CellScheduler(plan, cells_of(plan, survivors), store, watcher)
        if not cell_scheduler.is_over:
            run_cells(cell_scheduler, self._context(), cluster.placement)
        if not cell_scheduler.rows:
            raise SweepError("No cell could be worked out: see the messages above.")
        return cell_scheduler.rows, history

    def _context(self) -> TrialContext:
        return TrialContext(
            store=self.store.root,
            data=self.data,
            images_digest=self.plan.images_digest,
            read=self.plan.spec.read,
            cache=self.plan.spec.cache,
            rungs=self.plan.spec.rungs,
        )

    def conclude(self, found: tuple[list[Row], History], cluster: RayCluster) -> Outcome:
        """Choose, read the sets that nothing was chosen on, hand over the model and the
        evidence."""
        plan, store, out = self.plan, self.store, self.out
        rows, history = found
        rows = with_latencies(rows, len(plan.classes), store)
        choice = choose(rows, plan.spec.serving, lambda r: recorded_hits(store, r.cell, r.arm))
        served = self._served(choice.row, cluster)
        counting = self.terminal.counting("decoding images")
        outcome = score_choice(plan, choice, served, rows, self.images, store, counting)
        leaderboard.write(out / BOARD, outcome.rows)
        pictures = write_evidence(out, plan, outcome, history, self.record)
        text = model_card(plan, outcome, self.record.versions, pictures[0].name)
        write_model(out / "model", plan, served, store, card=text, picture=pictures[0])
        self._register(outcome, pictures)
        return outcome

    def _served(self, row: Row, cluster: RayCluster) -> ServedModel:
        if not self.plan.spec.evaluation.refit:
            return served_as_swept(self.plan, row, self.store)
        self.terminal.say("refit: the chosen configuration is trained again, on train + val")
        counting = self.terminal.counting("refit: epochs")
        context = self._context()
        return refit(self.plan, row, self.images, self.store, context, cluster, counting)

    def _register(self, outcome: Outcome, pictures: list[Path]) -> None:
        tracking, row = self.tracking, outcome.choice.row
        tracking.write_results(outcome.choice, outcome.rows)
        files = (BOARD, "report.html")
        tracking.attach([self.out / name for name in files])
        tracking.attach(pictures, "figures")
        shown = ("variant", "train_res", "test_res", "arm")
        tags = {name: str(getattr(row, name)) for name in shown}
        tracking.register_model(self.out / "model", self.plan.spec.tracking.register_as, tags)


def _prune(
    spec: SweepSpec, storage: SweepLocation, sweep: str, outcome: Outcome, terminal: Terminal
) -> None:
    """Free the disk of what is not to be kept, MLflow's first: if that fails, all is as it was."""
    store = storage.store
    stay = retention.keys_to_retain(outcome.rows, outcome.choice.row, spec.output.keep)
    if not retention.deletable_files(store, stay):
        return
    with _tracked(spec, storage, sweep, terminal) as tracking:
        tracking.keep_only(stay.trunks, stay.cells)
    freed = retention.prune(store, stay)
    terminal.say(f"kept     {spec.output.keep}: {freed / 1e6:,.1f} MB of the store freed")


def _tell(
    terminal: Terminal, storage: SweepLocation, outcome: Outcome, spec: SweepSpec, ui: str | None
) -> None:
    out = storage.out
    terminal.console.print(summary(outcome, comparisons_of_recipe(spec, outcome.rows)))
    terminal.say(f"report   {out / 'report.html'}")
    terminal.say(f"model    {out / 'model'}  (timm: local-dir:{out / 'model'})")
    if storage.remote is not None:
        terminal.say(f"storage  {storage.remote}  (the same, with the store)")
    terminal.say(f"runs     {ui}")
