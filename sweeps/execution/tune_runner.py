"""Run trials through Ray Tune: a searcher hands them out, a scheduler decides which continue."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from sweeps.execution.resources import PhaseResources
from sweeps.redaction import redacted
from trainables.ray_backend.tune_trainables import TrialContext
from trainables.storage.full_disk import full_disk_in

# A trial may fail this often in a row without an epoch done in between; each retry continues from
# the checkpoint that the trial saved.
MAX_FAILURES_WITHOUT_PROGRESS = 5
Config = dict[str, Any]
P = ParamSpec("P")
T = TypeVar("T")
Trainable = tune.Trainable


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Callbacks of a phase: they supply the trials' configurations and receive their results.

    Attributes:
        next_config: returns the next configuration, whose ``net_at_res`` is a key of the phase's
            resources; None: there are no more.
        should_continue: receives a configuration and a result, and decides whether the trial
            continues. The same result may come twice.
        failed: receives a configuration whose retries have all failed, and the last traceback.
        retried: receives a configuration that is tried again, and the traceback of its failure.
    """

    next_config: Callable[[], Config | None]
    should_continue: Callable[[Config, dict[str, Any]], bool]
    failed: Callable[[Config, str], None]
    retried: Callable[[Config, str], None] = lambda _, __: None


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

        def checked(then: Callable[[Config, str], None]) -> Callable[[Config, str], None]:
            def check(config: Config, trace: str) -> None:
                if full := full_disk_in(trace):
                    raise full
                then(config, trace)

            return self.guard(check, None)

        return Phase(
            next_config=self.guard(phase.next_config, None),
            should_continue=self.guard(phase.should_continue, False),
            failed=checked(phase.failed),
            retried=checked(phase.retried),
        )

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether to stop the whole phase."""
        return self.error is not None


@dataclass
class _Task:
    config: Config
    failures: int = 0
    """Failures of those trials of the configuration that Tune gave up."""


class _PhaseSearcher(_Unpickled, Searcher):
    """Suggests the configurations of a phase until there are no more.

    Where a reused process ends before its next trial has begun, Tune gives that trial up without a
    retry; its configuration is then suggested again as a new trial.
    """

    def __init__(
        self,
        next_config: Callable[[], Config | None],
        phase: Phase,
        scheduler: _PhaseScheduler,
    ):
        super().__init__()
        self._next_config, self._phase, self._scheduler = next_config, phase, scheduler
        self._to_retry: list[_Task] = []
        self._running: dict[str, _Task] = {}

    def suggest(self, trial_id: str) -> Any:
        """Return a configuration; None: there may be one later; FINISHED: there will be none."""
        task = self._to_retry.pop(0) if self._to_retry else self._next_task()
        if task is None:
            # After FINISHED Tune never calls this again, but a running trial may need a retry.
            return None if self._running else Searcher.FINISHED
        self._running[trial_id] = task
        return task.config

    def _next_task(self) -> _Task | None:
        config = self._next_config()
        return None if config is None else _Task(config)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Queue the configuration again if its trial failed and it may; else report it failed."""
        task = self._running.pop(trial_id, None)
        if not error or task is None:
            return
        failures, trace = self._scheduler.failures.get(
            trial_id, (MAX_FAILURES_WITHOUT_PROGRESS + 1, "")
        )
        task.failures += failures
        if task.failures <= MAX_FAILURES_WITHOUT_PROGRESS:
            self._to_retry.append(task)
        else:
            self._phase.failed(task.config, trace)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the store's journal holds all decisions."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: a rerun reads the store's journal."""


class _PhaseScheduler(_Unpickled, FIFOScheduler):
    """Asks the phase after each result whether the trial continues, and counts failures."""

    def __init__(self, phase: Phase):
        super().__init__()  # type: ignore[no-untyped-call]
        self._phase = phase
        # Both by trial id: the number of failures with the last traceback, and the most iterations
        # that a result has reported.
        self.failures: dict[str, tuple[int, str]] = {}
        self._max_iteration: dict[str, int] = {}

    @property
    def supports_buffered_results(self) -> bool:
        """False: every result is needed when it comes."""
        return False

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Pass the result to the phase and return its decision."""
        iteration = int(result["training_iteration"])
        if iteration > self._max_iteration.get(trial.trial_id, 0):
            self._max_iteration[trial.trial_id] = iteration
            # Only failures without progress in between count.
            trial.run_metadata.num_failures = 0
        continues = self._phase.should_continue(trial.config, result)
        return str(TrialScheduler.CONTINUE if continues else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Pass on the last result of a trial that ended by itself: Tune reports it only here."""
        if trial.last_result.get("done"):
            self._phase.should_continue(trial.config, result)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Count the failure, and report a retry to the phase.

        Tune calls this before every retry, and before it tells the searcher that a trial failed.
        """
        path = trial.error_file
        trace = Path(path).read_text(errors="replace") if path and Path(path).exists() else ""
        trace = redacted(trace)
        failures = trial.run_metadata.num_failures
        # Tune reports the end of a reused process twice; by the second time the trial waits again.
        is_new = trial.status == Trial.ERROR or trial.trial_id not in self.failures
        self.failures[trial.trial_id] = (failures, trace)
        if is_new and failures <= MAX_FAILURES_WITHOUT_PROGRESS:
            self._phase.retried(trial.config, trace)


def run_trials(
    trainable: type[tune.Trainable],
    phase: Phase,
    context: TrialContext,
    phase_resources: PhaseResources,
) -> None:
    """Run all trials of a phase in one Tuner, whose own files are deleted afterwards.

    Raises:
        UserError: a trial could never be placed.
        DiskFullError: the disk was full for a trial.
        Exception: what a callback of the phase raised.
    """
    fault = _Fault()
    phase = fault.guarded(phase)
    trial_resources = phase_resources.trial_resources

    def next_config_with_resources() -> Config | None:
        config = phase.next_config()
        if config is None:
            return None
        return {**config, **trial_resources[config["net_at_res"]].config}

    scheduler = _PhaseScheduler(phase)
    searcher = _PhaseSearcher(next_config_with_resources, phase, scheduler)
    scratch = Path(tempfile.mkdtemp(prefix="fixres-tune-"))
    context = replace(context, threads=phase_resources.cpus)
    try:
        tune.Tuner(
            tune.with_resources(
                tune.with_parameters(trainable, context=context),
                lambda config: tune.PlacementGroupFactory([config["resources"]]),
            ),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1,
                max_concurrent_trials=phase_resources.concurrency,
                # An idle process keeps its GPU for the next trial. Workers, which Tune does not
                # know, would wait for that GPU in vain.
                reuse_actors=all(trial.workers == 1 for trial in trial_resources.values()),
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=uuid.uuid4().hex,
                storage_path=str(scratch),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES_WITHOUT_PROGRESS),
                stop=fault,
            ),
        ).fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if fault.error is not None:
        raise fault.error
