"""Run trials through Ray Tune: a searcher hands them out, a scheduler asks who goes on."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweeps.execution.resources import PhaseResources
from trainables.ray_backend.tune_trainables import TrialContext

MAX_FAILURES_WITHOUT_PROGRESS = (
    5  # of a trial, with no epoch done between; it goes on from what it saved
)
Config = dict[str, Any]
Trainable = tune.Trainable


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What trials are given, and who is told what becomes of them.

    Attributes:
        give: the next configuration, with its ``size``, as the room has it; None: no more.
        goes_on: whether a trial goes on after a result. A trial may be told of twice.
        failed: told of a configuration that no retry saved, and its trace.
        retried: told of one that is tried again, and the trace of its failure.
    """

    next_config: Callable[[], Config | None]
    should_continue: Callable[[Config, dict[str, Any]], bool]
    failed: Callable[[Config, str], None]
    retried: Callable[[Config, str], None] = lambda _, __: None


@dataclass
class _Task:
    config: Config
    failures: int = 0  # of trials of it that Tune gave up


class _Unpickled:
    """The Tuner pickles all that it is given, for a restore that is never made: nothing of ours."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _PhaseSearcher(_Unpickled, Searcher):
    """The configurations of a phase, until it has no more.

    Tune gives a trial up at once whose reused process ends before it has begun: it is tried again
    as a new one.
    """

    def __init__(self, give: Callable[[], Config | None], phase: Phase, judge: _PhaseScheduler):
        super().__init__()
        self._give, self._phase, self._judge = give, phase, judge
        self._again: list[_Task] = []
        self._running: dict[str, _Task] = {}

    def suggest(self, trial_id: str) -> Any:
        task = self._again.pop(0) if self._again else self._new()
        if task is None:  # Tune asks no more after FINISHED, and what runs may have to come again
            return None if self._running else Searcher.FINISHED
        self._running[trial_id] = task
        return task.config

    def _new(self) -> _Task | None:
        config = self._give()
        return None if config is None else _Task(config)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        task = self._running.pop(trial_id, None)
        if not error or task is None:
            return
        failures, trace = self._judge.failures.get(
            trial_id, (MAX_FAILURES_WITHOUT_PROGRESS + 1, "")
        )
        task.failures += failures
        if task.failures <= MAX_FAILURES_WITHOUT_PROGRESS:
            self._again.append(task)
        else:
            self._phase.failed(task.config, trace)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, likewise."""


class _PhaseScheduler(_Unpickled, FIFOScheduler):
    """A scheduler that asks the phase whether a trial goes on."""

    def __init__(self, phase: Phase):
        super().__init__()
        self._phase = phase
        self.failures: dict[str, tuple[int, str]] = {}  # by trial id: how many, the last's trace
        self._farthest: dict[str, int] = {}  # by trial id: results, the most at a stretch

    @property
    def supports_buffered_results(self) -> bool:
        return False

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        came = int(result["training_iteration"])
        if came > self._farthest.get(trial.trial_id, 0):
            self._farthest[trial.trial_id] = came
            trial.run_metadata.num_failures = 0  # only those without progress between count
        goes_on = self._phase.should_continue(trial.config, result)
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """The last result of a trial that says itself that it is done comes only here."""
        if trial.last_result.get("done"):
            self._phase.should_continue(trial.config, result)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Comes before every retry, and before the searcher is told that there is none left."""
        path = trial.error_file
        trace = Path(path).read_text(errors="replace") if path and Path(path).exists() else ""
        failures = trial.run_metadata.num_failures
        # A reused process that ends is told of twice, the second time of a trial that waits again.
        news = trial.status == Trial.ERROR or trial.trial_id not in self.failures
        self.failures[trial.trial_id] = (failures, trace)
        if news and failures <= MAX_FAILURES_WITHOUT_PROGRESS:
            self._phase.retried(trial.config, trace)


def run_trials(
    trainable: type[tune.Trainable],
    phase: Phase,
    context: TrialContext,
    phase_resources: PhaseResources,
) -> None:
    """One Tuner over a phase. Tune's own files are of no use afterwards.

    Raises:
        UserError: a trial could never be placed.
    """
    asks = phase_resources.trial_resources

    def placed() -> Config | None:
        config = phase.next_config()
        return config if config is None else {**config, **asks[config["size"]].config}

    judge = _PhaseScheduler(phase)
    feed = _PhaseSearcher(placed, phase, judge)
    scratch = Path(tempfile.mkdtemp(prefix="fixres-tune-"))
    context = replace(context, threads=phase_resources.cpus)
    try:
        tune.Tuner(
            tune.with_resources(
                tune.with_parameters(trainable, context=context),
                lambda config: tune.PlacementGroupFactory([config["resources"]]),
            ),
            tune_config=tune.TuneConfig(
                search_alg=feed,
                scheduler=judge,
                num_samples=-1,
                max_concurrent_trials=phase_resources.concurrency,
                # An idle process keeps its GPU for the next trial: workers, whom Tune does not
                # know of, would wait for it in vain.
                reuse_actors=all(ask.workers == 1 for ask in asks.values()),
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=uuid.uuid4().hex,
                storage_path=str(scratch),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES_WITHOUT_PROGRESS),
            ),
        ).fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
