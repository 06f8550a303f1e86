"""Run a sweep, top to bottom.

spec -> plan -> trunks (phase 1) -> cells (phase 2) -> leaderboard -> choice -> model and report

Cells of points whose trunks are settled are worked out beside the trunks of others.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from sweeps.dry_run import dry_run
from sweeps.environment import on_cluster
from sweeps.events.event_lines import EventLines
from sweeps.events.event_types import SweepBegan, Watcher, Watchers
from sweeps.events.failures import failures_in_words
from sweeps.events.live_board import LiveBoard
from sweeps.events.recorders import Guard, History
from sweeps.execution.budgeting import Spending, check_budget, no_trunk_in_words, spending
from sweeps.execution.phases import run_phases
from sweeps.execution.plan_resources import check_devices, spread_line
from sweeps.execution.ray_cluster import RayCluster
from sweeps.execution.screening import run_screen
from sweeps.final_model.held_out import score_choice
from sweeps.final_model.outcome import (
    Outcome,
    ServedModel,
    finished_outcome,
    served_as_swept,
    write_choice,
)
from sweeps.final_model.quantise import quantiser
from sweeps.final_model.reading_trials import reader
from sweeps.final_model.refit import refit
from sweeps.output import folder
from sweeps.output.disk_space import check_disks, check_expected, is_begun
from sweeps.output.location import (
    BOARD,
    CHOICE,
    EVIDENCE,
    STATUS,
    SweepLocation,
    check_same,
    location_of,
)
from sweeps.output.sweep_record import SPEC, SweepRecord, new_sweep_record
from sweeps.planning import building
from sweeps.planning.checks.search_checks import with_settled_search
from sweeps.planning.dataset import check_extra_test_sets, find_near_duplicates, open_images
from sweeps.planning.kept_classifiers import kept_classifier_lines
from sweeps.planning.plan import Plan
from sweeps.planning.spec import SweepSpec, identity
from sweeps.report.build import write_evidence
from sweeps.report.carded_model import write_carded_model
from sweeps.scheduling.cell_scheduler import CellScheduler, SurvivingTrunk, cells_of
from sweeps.scheduling.journal import read_journal
from sweeps.scheduling.repair import with_repairs
from sweeps.scheduling.reuse import reuse_lines
from sweeps.scheduling.screening import screened_by_store
from sweeps.scheduling.trunk_scheduler import TrunkScheduler
from sweeps.selection import leaderboard
from sweeps.selection.from_store import choose_from_store
from sweeps.selection.leaderboard import Row
from sweeps.selection.row_latency import setting_from, with_latencies
from sweeps.selection.untouched import with_left_out
from sweeps.terminal.conclusion import show_result
from sweeps.terminal.console import Terminal
from sweeps.terminal.plan_tables import plan_view
from sweeps.terminal.status import StatusFile
from sweeps.tracking.access.moved_folder import DATABASE, follow_folder
from sweeps.tracking.delivery.shortfall import shortfall_path
from sweeps.tracking.free_disk import free_disk
from sweeps.tracking.model_registry import Candidate
from sweeps.tracking.payloads import Results
from sweeps.tracking.session import (
    check_tracking,
    connect_tracking,
    say_shortcoming,
    tracked,
    tracking_option,
    with_followed_ui,
)
from sweeps.tracking.tracker import MlflowTracker
from trainables.data.image_set import ImageSet
from trainables.errors import IncompleteError, ReplacedError, SweepError, UserError
from trainables.models import variants
from trainables.models.device import take_gpu_share, use_precision
from trainables.models.weights import Weights, find_weights
from trainables.ray_backend.tune_trainables import TrialContext
from trainables.storage.artifact_store import Store
from trainables.storage.fenced_log import has_lines
from trainables.storage.files import Place, make_writable
from trainables.training.trunk import recorded_reports

log = logging.getLogger("fixres")


def run(spec: SweepSpec, terminal: Terminal) -> None:
    """Run the sweep, or continue it.

    Raises:
        UserError: the sweep cannot be run with these options.
        SweepError: it can, but came to nothing.
        IncompleteError: its results are written, but trunks or cells of it failed.
    """
    check_tracking(spec)
    check_budget(spec)
    check_devices(spec.resources)
    if spec.resources.gpus_per_trial == 0:
        take_gpu_share(0)  # by this process, as by the trials
    use_precision(spec.resources.precision)
    out = folder.find_folder(spec)
    location = location_of(out, spec.output.storage, spec.output.link_days)
    make_writable(spec.cache, "cache_dir")
    if spec.run.dry_run:
        dry_run(spec, location, terminal)
        return
    is_new_folder = not out.exists()
    make_writable(out, "out")
    with folder.locked(out), location.opened(terminal.say) as location:
        is_new_sweep = not (out / SPEC).exists()
        try:
            _run_or_continue(spec, location, terminal, is_new_sweep=is_new_sweep)
        except UserError as error:
            is_ours = not isinstance(error, ReplacedError)  # else it is the next driver's
            if is_new_sweep and is_ours and not has_lines(location.store.journal):
                folder.remove_unfinished(out, is_new_folder)
            raise


def _run_or_continue(
    spec: SweepSpec, location: SweepLocation, terminal: Terminal, *, is_new_sweep: bool
) -> None:
    out, store, begun = location.out, location.store, is_begun(location)
    follow_folder(out / DATABASE)
    # An MLflow that cannot be used, and weights that cannot be reached, are reported at once, not
    # after all images have been decoded. MLflow in OUT is not made for a sweep that is refused.
    connection = None
    if tracking_option(spec) and not (out / CHOICE).exists():
        connection = connect_tracking(spec, out, terminal.say)
    weights = _find_weights(spec, store) if is_new_sweep else []
    expect = None if begun else partial(check_expected, spec, location, say=terminal.say)
    images, data = open_images(spec, terminal, expect)
    spec = with_settled_search(spec, len(images.split("train")))
    sweep_identity = identity(spec, images.digest)
    record = folder.read_matching_record(out, sweep_identity)
    if record:
        check_same(record, location)
    outcome = finished_outcome(spec, location, record, sweep_identity) if record else None
    if outcome is None:
        near = find_near_duplicates(images, check_extra_test_sets(spec, images, terminal))
        weights = weights or _find_weights(spec, store)
        plan = building.build_plan(spec, images, weights, near.in_words)
        plan = screened_by_store(plan, store)
        if record is None:
            read_journal(store, plan)  # refuses the store of another sweep
            record = new_sweep_record(spec, sweep_identity, location.uri, images.classes)
            location.driver.check()
            record.write(out)
        held = reuse_lines(plan, location, record, sweep_identity) if begun else []
        folder.write_rejected(out, images)
        folder.write_near_duplicates(out, near)
        terminal.console.print(plan_view(plan))
        check_disks(plan, location, terminal.say, begun=begun)
        connection = connection or connect_tracking(spec, out, terminal.say)
        record = folder.continue_record(record, spec, sweep_identity, location, terminal.say)
        for line in [*kept_classifier_lines(plan, images, store), *held]:
            terminal.say(line)
        with tracked(connection, location, record.sweep, terminal.say) as tracker:
            sweep = _Sweep(plan, images, data, location, record, tracker, terminal)
            outcome = sweep.run()
            location.driver.check()
            # The results are whole before anything waits for MLflow.
            replace(record, ui=tracker.ui_command()).write(out)
            tracker.begin_closing()
            write_choice(out, outcome, sweep_identity)
            location.publish_results()
            show_result(terminal, location, outcome, spec, tracker.ui_command())
        say_shortcoming(tracker, out, terminal.say)
    else:
        assert record is not None, "a finished sweep has a record"
        record = folder.continue_record(record, spec, sweep_identity, location, terminal.say)
        record = with_followed_ui(record, spec, out)
        show_result(terminal, location, outcome, spec, record.ui)
        if shortfall_path(store).exists():
            plan = building.build_plan(spec, images, _find_weights(spec, store))
            plan = screened_by_store(plan, store)
            _send_again(plan, images, data, location, record, outcome, terminal)
    if outcome.failures:
        # What is tried again may need what --keep would delete.
        words = failures_in_words(outcome.failures)
        raise IncompleteError(f"{words}; the same command tries them again.")
    free_disk(spec, location, record.sweep, outcome.rows, outcome.choice, terminal.say, connection)


def _send_again(
    plan: Plan,
    images: ImageSet,
    data: Place,
    location: SweepLocation,
    record: SweepRecord,
    outcome: Outcome,
    terminal: Terminal,
) -> None:
    """Send MLflow what it lacks of a finished sweep, if it can be used now."""
    try:
        connection = connect_tracking(plan.spec, location.out, terminal.say)
    except UserError as error:
        terminal.say(f"warning: MLflow lacks part of this sweep, and {error}")
        return
    with tracked(connection, location, record.sweep, terminal.say) as tracker:
        _Sweep(plan, images, data, location, record, tracker, terminal).send_again(outcome)
    say_shortcoming(tracker, location.out, terminal.say)


def _find_weights(spec: SweepSpec, store: Store) -> list[Weights]:
    return [find_weights(variants.get(v), spec.grid.weights, store) for v in spec.grid.variants]


@dataclass(frozen=True)
class _Sweep:
    """One run of a sweep: its steps, and what they share."""

    plan: Plan
    images: ImageSet
    data: Place
    location: SweepLocation
    record: SweepRecord
    tracker: MlflowTracker
    terminal: Terminal

    @property
    def out(self) -> Path:
        return self.location.out

    @property
    def store(self) -> Store:
        return self.location.store

    def run(self) -> Outcome:
        """Train the trunks, adapt them in the cells, choose, and write the model and the report.

        Ray is started by the first step that finds something left to do.
        """
        may_write = self.location.driver.may_write
        with (
            RayCluster(self.plan.spec.resources) as cluster,
            spending(self.plan, self.store, cluster, may_write) as spent,
        ):
            spent.time_device(self._trial_context(), cluster, self.terminal.say)
            screened = with_repairs(
                partial(self._screened, cluster, spent), self.store, self.terminal.say
            )
            return screened._run_screened(cluster, spent)

    def _screened(self, cluster: RayCluster, spent: Spending) -> _Sweep:
        """Leave out what the untouched nets speak against, where that is asked for."""
        guard = Guard(self.location.driver.check)
        watcher = Watchers([guard, spent.durations, spent.account, self.terminal])
        context, say = self._trial_context(), self.terminal.say
        plan = run_screen(spent, context, lambda: cluster.placement, watcher, say)
        return replace(self, plan=plan)

    def _run_screened(self, cluster: RayCluster, spent: Spending) -> Outcome:
        """Run both phases, and conclude."""
        history = History()
        history.forecast = spent.forecast
        board = LiveBoard(*self.location.boards, check=self.location.driver.check)
        watcher = self._begin(history, spent, board)

        def work() -> Outcome:
            with board.completed():
                trunks, cells = self._run_phases(watcher, cluster, spent)
            with spent.durations.closing():
                outcome = self._conclude(trunks, cells, history, cluster, spent)
            return replace(outcome, budgeted=spent.undone(trunks, cells))

        return with_repairs(work, self.store, self.terminal.say)

    def send_again(self, outcome: Outcome) -> None:
        """Have MLflow told of a finished sweep again, from its store: it takes what it lacks."""
        tracker = self.tracker
        tracker.on(SweepBegan(plan=self.plan))
        tracker.attach([self.out / SPEC])
        # The schedulers tell again what the store holds, and have nothing left to do.
        trunk_scheduler = TrunkScheduler(self.plan, self.store, tracker)
        CellScheduler(
            self.plan, cells_of(self.plan, self._surviving(trunk_scheduler)), self.store, tracker
        )
        self._track_outcome(outcome, sorted((self.out / "figures").glob("*.png")))
        tracker.begin_closing()

    def _begin(self, history: History, spent: Spending, board: LiveBoard) -> Watcher:
        """Announce the sweep to everything that watches it, and publish its spec."""
        guard = Guard(self.location.driver.check)
        counting = (spent.durations, spent.account)
        status = StatusFile(self.out / STATUS, self.terminal.status)
        watchers: list[Watcher] = [guard, *counting, self.tracker, self.terminal, history, board]
        if events := self.plan.spec.output.events:
            watchers.append(EventLines(events.expanduser()))
        watcher = Watchers([*watchers, status])
        self.terminal.progress.is_bounded_by(spent.left_s)
        watcher.on(SweepBegan(plan=self.plan, kept=spent.durations.kept))
        self.tracker.attach([self.out / SPEC])
        self.location.publish(SPEC)
        return watcher

    def _run_phases(
        self, watcher: Watcher, cluster: RayCluster, spent: Spending
    ) -> tuple[TrunkScheduler, CellScheduler]:
        """Train every trunk as far as the rungs, and the budget, let it; adapt what survives.

        Surviving trunks and untouched nets are adapted to every test resolution and crop.
        """
        journal = self.location.driver.open_journal(self.store.journal)
        trunks = spent.trunk_scheduler(watcher, journal)
        cells = spent.settled_cells(trunks, watcher)

        def trunks_ended() -> None:
            if not trunks.survivors() and not (spent.budget and self.plan.has_untouched):
                raise SweepError(no_trunk_in_words(spent))
            cells.plan_all()

        if trunks.is_over:
            trunks_ended()
        if not cells.is_over:
            placement = cluster.placement
            if on_cluster() and (spread := spread_line(self.plan, placement)):
                self.terminal.say(f"spread: {spread}")  # by the GPUs that are seen only now
            run_phases(trunks, cells, self._trial_context(), placement, trunks_ended)
        if not cells.cells.rows:
            raise SweepError("No cell could be worked out: see the messages above.")
        return trunks, cells.cells

    def _surviving(self, trunk_scheduler: TrunkScheduler) -> list[SurvivingTrunk]:
        return [
            (trunk, tuple(recorded_reports(self.store, trunk.key)))
            for trunk in trunk_scheduler.survivors()
        ]

    def _trial_context(self) -> TrialContext:
        return TrialContext(
            store=self.store.root,
            data=self.data,
            images_digest=self.plan.images_digest,
            read=self.plan.spec.read,
            cache=self.plan.spec.cache,
            precision=self.plan.spec.resources.precision,
            speed_ups=self.plan.spec.resources.speed_ups,
            gpu_memory_gb=self.plan.spec.resources.gpu_memory_gb,
        )

    def _conclude(
        self,
        trunks: TrunkScheduler,
        cells: CellScheduler,
        history: History,
        cluster: RayCluster,
        spent: Spending,
    ) -> Outcome:
        """Choose, score the choice on the held-out sets, and write the model and the report."""
        undone = spent.undone(trunks, cells)
        plan, store, out, check = self.plan, self.store, self.out, self.location.driver.check
        progress = self.terminal.counting("latency: nets measured")
        setting = setting_from(plan.spec.latency)
        rows, latency = with_latencies(cells.rows, len(plan.classes), store, setting, progress)
        rows = with_left_out(rows, plan.screen)
        rows, choice = choose_from_store(rows, plan.spec.serving, store, plan.metric, latency)
        with spent.durations.apart():
            served_model = self._served_model(choice.row, cluster)
        progress = self.terminal.counting("decoding images")
        context, reading = self._trial_context(), self.terminal.counting("readings made")
        read_all = reader(plan, self.images, store, context, cluster, reading)
        with spent.durations.apart():
            outcome = score_choice(
                plan, choice, served_model, rows, self.images, store, read_all, progress, latency
            )
        outcome = replace(
            outcome,
            failures=history.failures,
            budgeted=undone,
            screen=plan.screen,
            early_end=trunks.early_end,
            cascade=trunks.cascade,
        )
        check()
        leaderboard.write(out / BOARD, outcome.rows, latency)
        quantise = quantiser(plan, outcome, served_model, self.images)
        check()
        outcome = write_carded_model(
            out / "model", plan, outcome, served_model, store, self.record.versions, quantise
        )
        check()
        figures = write_evidence(out, plan, outcome, history, self.record)
        self._track_outcome(outcome, figures)
        return outcome

    def _served_model(self, chosen: Row, cluster: RayCluster) -> ServedModel:
        """Return the chosen row's model; with ``--refit``, train it again on train + val."""
        if not self.plan.spec.evaluation.refit:
            return served_as_swept(self.plan, chosen, self.store)
        self.terminal.say("refit: the chosen configuration is trained again, on train + val")
        progress = self.terminal.counting("refit: epochs")
        context = self._trial_context()
        return refit(self.plan, chosen, self.images, self.store, context, cluster, progress)

    def _track_outcome(self, outcome: Outcome, figures: list[Path]) -> None:
        """Send outcome and files to MLflow, and register the model there."""
        tracker, chosen = self.tracker, outcome.choice.row
        tracker.write_results(
            Results(
                choice=outcome.choice,
                rows=outcome.rows,
                further=outcome.further_metrics,
                latency=outcome.latency,
                failures=outcome.failures,
                budget=outcome.budgeted.in_words if outcome.budgeted else "",
                screen=outcome.screen.in_words if outcome.screen else "",
                early_end=outcome.early_end,
                cascade=outcome.cascade,
                step=len(self.record.extensions),
            )
        )
        tracker.attach([self.out / name for name in EVIDENCE if (self.out / name).exists()])
        tracker.attach(figures, "figures")
        fields = ("variant", "train_res", "test_res", "crop_pct", "arm")
        tracking = self.plan.spec.tracking
        tracker.register_model(
            Candidate(
                folder=self.out / "model",
                name=tracking.register_as,
                tags={name: str(getattr(chosen, name)) for name in fields},
                images=self.plan.images_digest,
                val_top1=chosen.value("top1"),
                metric=outcome.choice.metric,
                value=chosen.value(outcome.choice.metric),
                condition=tracking.register_if,
                step=len(self.record.extensions),
            )
        )
