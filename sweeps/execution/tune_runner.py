"""Run trials through Ray Tune: a searcher hands them out, a scheduler decides which continue.

Several phases may run at a time, in one run of Tune: trials of the first come first, and those of
the others take what would stand idle. Processes go from one phase to the next.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from sweeps.execution.other_nodes import (
    FAILURES_ON_A_NODE,
    alive_nodes,
    node_of_actor,
    nodes_to_avoid,
    resources_to_ask,
    without_node,
)
from sweeps.execution.resources import PhaseResources
from sweeps.execution.tasks import Phase, RunningPhase, Task, Tasks
from sweeps.redaction import redacted
from trainables.ray_backend.placement_groups import workers_wait
from trainables.ray_backend.starting_trials import is_starting
from trainables.ray_backend.tune_trainables import TrialContext, Work
from trainables.storage.full_disk import full_disk_in

# A trial may fail this often in a row without an epoch done in between; each retry continues from
# the checkpoint that the trial saved.
MAX_FAILURES_WITHOUT_PROGRESS = 5
LOOK_AT_NODES_EVERY_S = 10.0  # where queued trials are kept from some
P = ParamSpec("P")
T = TypeVar("T")


class _Unpickled:
    """Base of objects that pickle to nothing.

    The Tuner pickles its searcher and scheduler for a restore that this project never makes.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Fault(_Unpickled, Stopper):
    """Ends the phase where it cannot go on, by the first error that its callbacks raise.

    Tune would take what a callback raises for a failure of the trial, and try that again.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None

    def guard(self, callback: Callable[P, T], otherwise: T) -> Callable[P, T]:
        """Wrap a callback: one that raises gives ``otherwise``, as do all after it."""

        def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            if self.error is not None:
                return otherwise
            try:
                return callback(*args, **kwargs)
            except Exception as error:
                self.error = error
                return otherwise

        return guarded

    def guarded(self, phase: Phase) -> Phase:
        """Wrap all callbacks of a phase; a disk that is full for a trial ends the phase too."""

        def checked(then: Callable[Concatenate[Work, str, P], None]) -> Any:
            def check(work: Work, trace: str, *args: P.args, **kwargs: P.kwargs) -> None:
                if full := full_disk_in(trace):
                    raise full
                then(work, trace, *args, **kwargs)

            return self.guard(check, None)

        return Phase(
            queue=self.guard(phase.queue, None),
            should_continue=self.guard(phase.should_continue, False),
            failed=checked(phase.failed),
            retried=checked(phase.retried),
            begin=self.guard(phase.begin, None),
            urgency=self.guard(phase.urgency, (0, 0)),
            preceded=self.guard(phase.preceded, None),
        )

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether to stop the whole phase."""
        return self.error is not None


class _PhaseSearcher(_Unpickled, Searcher):
    """Suggests the trials of all phases until there are no more.

    Where a reused process ends before its next trial has begun, Tune gives that trial up without a
    retry; its task is then suggested again as a new trial.
    """

    def __init__(self, phases: Sequence[RunningPhase], tasks: Tasks, scheduler: _PhaseScheduler):
        super().__init__()
        self._phases, self._tasks, self._scheduler = phases, tasks, scheduler
        self._to_retry: list[Task] = []

    def suggest(self, trial_id: str) -> Any:
        """Return a configuration; None: there may be one later; FINISHED: there will be none."""
        task = self._to_retry.pop(0) if self._to_retry else self._next_task()
        if task is None:
            # After FINISHED Tune never calls this again, but a running trial may need a retry, or
            # let another go on.
            return None if self._tasks else Searcher.FINISHED
        self._tasks[trial_id] = task
        return task.config

    def _next_task(self) -> Task | None:
        """Make the next task, of the first phase that has one and room for it.

        None comes before what an earlier phase has queued: that has the next place that is free. It
        comes, too, while workers of a trial wait: they need several GPUs at once, and trials with
        one would take each that is free before they have them all.
        """
        if self._tasks.have_groups and workers_wait():
            return None
        are_over = True
        for of in self._phases:
            if are_over:
                of.phase.preceded()
            queued = of.phase.queue() if self._tasks.have_room_for(of) else None
            if queued is not None:
                config = of.resources.trial_resources[queued.net].config
                named = {"net_at_res": queued.net, "work": queued.work}
                return Task(of, queued, {**named, **config})
            own = self._tasks.of_phase(of)
            if any(not task.has_begun for task in own):
                return None
            are_over = are_over and not own
        return None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Queue the task again if its trial failed and it may; else report it failed."""
        task = self._tasks.pop(trial_id, None)
        if task is not None and task.is_withdrawn:
            task.is_withdrawn = False
            self._to_retry.append(task)
            return
        if not error or task is None:
            return
        failures, trace = self._scheduler.failures.get(
            trial_id, (MAX_FAILURES_WITHOUT_PROGRESS + 1, "")
        )
        task.failures += failures
        if task.failures <= MAX_FAILURES_WITHOUT_PROGRESS:
            self._to_retry.append(task)
        elif task.work is not None:
            task.of.phase.failed(task.work, trace)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the store's journal holds all decisions."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a rerun reads the store's journal."""


class _PhaseScheduler(_Unpickled, FIFOScheduler):
    """Asks the phase after each result whether the trial continues, and counts failures."""

    def __init__(self, tasks: Tasks):
        super().__init__()  # type: ignore[no-untyped-call]
        self._tasks = tasks
        self._queued: dict[str, Trial] = {}  # by trial id; some of them may have started
        # Both by trial id: the number of failures with the last traceback, and the most iterations
        # that a result has reported.
        self.failures: dict[str, tuple[int, str]] = {}
        self._max_iteration: dict[str, int] = {}
        self._look_at = 0.0  # when nodes are looked at next, by the monotonic clock

    @property
    def supports_buffered_results(self) -> bool:
        """False: every result is needed when it comes."""
        return False

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Take note of a trial that is queued, for the first time or again."""
        self._queued[trial.trial_id] = trial

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Choose which of the queued trials starts next.

        None whose process is on its way: Tune would end that, and give it one that another trial
        leaves. Where trials are shorter than a process takes to start, no second one ever would.
        """
        self._withdraw_unplaceable(tune_controller)
        for trial_id in [i for i, t in self._queued.items() if t.status != Trial.PENDING]:
            del self._queued[trial_id]
        waiting = [t for t in self._queued.values() if not is_starting(tune_controller, t)]
        return min(waiting, key=self._urgency, default=None)

    def _withdraw_unplaceable(self, tune_controller: Any) -> None:
        """End queued trials that only nodes could hold which they are kept from; others come.

        Now and then: the nodes that could hold them may have gone since they were queued.
        """
        waiting = [
            (trial, task)
            for trial_id, trial in self._queued.items()
            if (task := self._tasks.get(trial_id)) is not None
            and task.avoided
            and trial.status == Trial.PENDING
        ]
        if not waiting or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_AT_NODES_EVERY_S
        nodes = alive_nodes()
        for trial, task in waiting:
            if not nodes_to_avoid(task.failed_on, task.config["resources"], nodes):
                task.avoid(())
                task.is_withdrawn = True
                tune_controller.stop_trial(trial)

    def _urgency(self, trial: Trial) -> tuple[int, int, float]:
        task = self._tasks.get(trial.trial_id)
        if task is None or task.has_begun:
            return 0, 0, 0
        return (task.of.rank, *task.of.phase.urgency(task.queued.net))

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Pass the result to the phase and return its decision."""
        iteration = int(result["training_iteration"])
        if iteration > self._max_iteration.get(trial.trial_id, 0):
            self._max_iteration[trial.trial_id] = iteration
            # Only failures without progress in between count.
            trial.run_metadata.num_failures = 0
        continues = self._continues(trial, result)
        return str(TrialScheduler.CONTINUE if continues else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Pass on the last result of a trial that ended by itself: Tune reports it only here."""
        if trial.last_result.get("done"):
            self._continues(trial, result)

    def _continues(self, trial: Trial, result: dict[str, Any]) -> bool:
        task = self._tasks.get(trial.trial_id)
        if task is None or task.work is None:
            return False
        return task.of.phase.should_continue(task.work, result)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Count the failure, and report a retry to the phase.

        Tune calls this before every retry, and before it tells the searcher that a trial failed.
        One that failed before it began takes its work now: it is that which failed.
        """
        path = trial.error_file
        trace = Path(path).read_text(errors="replace") if path and Path(path).exists() else ""
        trace, node = without_node(redacted(trace))
        failures = trial.run_metadata.num_failures
        # Tune reports the end of a reused process twice; by the second time the trial waits again.
        is_new = trial.status == Trial.ERROR or trial.trial_id not in self.failures
        self.failures[trial.trial_id] = (failures, trace)
        task = self._tasks.get(trial.trial_id)
        if task is None:
            return
        task.begin()
        before = task.avoided
        left = self._avoided_anew(task, node) if is_new else ""
        if trial.status == Trial.ERROR and task.avoided != before:
            trial.update_resources(resources_to_ask(task.config))  # before it waits for them again
        if is_new and failures <= MAX_FAILURES_WITHOUT_PROGRESS and task.work is not None:
            task.of.phase.retried(task.work, trace, left)

    def _avoided_anew(self, task: Task, node: str | None) -> str:
        """Count a failure on its node; name the node if the work is kept from it from now on.

        Workers of a trial are placed by Ray Train, which is not told of it.

        Args:
            node: that the error names; None: that which its process has told is asked for.
        """
        node = node or node_of_actor(task.node)
        task.node = None
        if node is None or "workers" in task.config:
            return ""
        task.failed_on[node] += 1
        if task.failed_on[node] < FAILURES_ON_A_NODE:
            return ""
        nodes, before = alive_nodes(), task.avoided
        task.avoid(nodes_to_avoid(task.failed_on, task.config["resources"], nodes))
        new = set(task.avoided) - set(before)
        return next((found.name for found in nodes if found.id in new), "")


class _Starter(_Unpickled, tune.Callback):
    """Brings a trial its work when a process is ready for it, before its first step."""

    def __init__(self, tasks: Tasks):
        self._tasks = tasks

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: object
    ) -> None:
        """Have the work chosen, and send it: calls of one process reach an actor in their order."""
        task = self._tasks[trial.trial_id]
        task.begin()
        actor: Any = trial.temporary_state.ray_actor
        task.node = actor.node_id.remote()
        actor.begin.remote(task.work)


def run_trials(
    trainable: type[tune.Trainable],
    phases: Sequence[tuple[Phase, PhaseResources]],
    context: TrialContext,
) -> None:
    """Run all trials of phases in one Tuner, whose own files are deleted afterwards.

    Args:
        phases: with what their trials may use; those of the first come before those of the next.

    Raises:
        UserError: a trial could never be placed.
        DiskFullError: the disk was full for a trial.
        Exception: what a callback of a phase raised.
    """
    fault, tasks = _Fault(), Tasks()
    running = [
        RunningPhase(phase=fault.guarded(phase), resources=resources, rank=rank)
        for rank, (phase, resources) in enumerate(phases)
    ]
    kinds = [trial for _, resources in phases for trial in resources.trial_resources.values()]
    scheduler = _PhaseScheduler(tasks)
    searcher = _PhaseSearcher(running, tasks, scheduler)
    scratch = Path(tempfile.mkdtemp(prefix="fixres-tune-"))
    try:
        tune.Tuner(
            tune.with_resources(
                tune.with_parameters(trainable, context=context),
                resources_to_ask,
            ),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1,
                max_concurrent_trials=_most_at_a_time(running),
                # An idle process keeps its GPU for the next trial. Workers, which Tune does not
                # know, would wait for that GPU in vain.
                reuse_actors=all(trial.workers == 1 for trial in kinds),
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=uuid.uuid4().hex,
                storage_path=str(scratch),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES_WITHOUT_PROGRESS),
                stop=fault,
                callbacks=[_Starter(tasks)],
            ),
        ).fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if fault.error is not None:
        raise fault.error


def _most_at_a_time(phases: Sequence[RunningPhase]) -> int | None:
    """Decide how many trials of all phases run at a time; None: as many as the cluster takes."""
    counts = [of.resources.concurrency for of in phases]
    return None if None in counts else max(count for count in counts if count is not None)
