"""Trials of a phase, through a stand-in for Tune and through the real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import tune
from ray.tune.experiment import Trial

from sweeps.execution import tune_runner
from sweeps.execution.resources import (
    ClusterResources,
    Gpu,
    MemoryNeed,
    NetAtRes,
    PhaseResources,
    Placement,
)
from sweeps.execution.tasks import Phase, Queued, RunningPhase, Task, Tasks
from sweeps.execution.tune_runner import run_trials
from sweeps.planning.options.groups import ResourceOptions
from tests.sweeps.execution.fragile_trial import FULL, Fragile, FragileContext, SlowToStart
from trainables.data.options import ReadOptions
from trainables.ray_backend.tune_trainables import TrialContext
from trainables.storage.full_disk import DiskFullError

NET = ("", 0)
WORK: Any = "a trunk"
CONTEXT = TrialContext(
    store=Path("/s"), data=Path("/d"), images_digest="0", read=ReadOptions(), cache=Path("/c"),
)  # fmt: skip
TWO_GPUS = ClusterResources(
    cores=8, gpus=2, gpus_per_node=2, cores_per_gpu=4, gpu=Gpu(gb=10.0, source="here"),
    memory_gb=16, cluster=False,
)  # fmt: skip


class Tuner:
    """Stands for Ray's: takes trials one by one, and notes what each would ask for."""

    settings: dict[str, Any]
    trials: list[tuple[Any, Any]]

    def __init__(self, trainable: Any, *, tune_config: Any, run_config: Any):
        Tuner.settings = {
            "reuse": tune_config.reuse_actors,
            "most": tune_config.max_concurrent_trials,
        }
        Tuner.trials = []
        searcher = tune_config.search_alg
        while (config := searcher.suggest(str(len(Tuner.trials)))) != "FINISHED":
            searcher.on_trial_complete(str(len(Tuner.trials)))
            Tuner.trials.append((config, trainable.default_resource_request(config)))

    def fit(self) -> None:
        pass


def test_each_trial_asks_for_the_resources_of_its_own_net(monkeypatch: pytest.MonkeyPatch) -> None:
    gb_of = {("small", 1): 2.4, ("large", 1): 9.0, ("huge", 1): 19.0}
    nets = [("small", 1), ("huge", 1), ("large", 1)]
    trials = run_with_stand_in(monkeypatch, gb_of, nets)
    (small, shared), (huge, waiting), (large, whole) = trials
    assert shared == tune.PlacementGroupFactory([{"CPU": 1, "GPU": 0.25}])
    assert whole == tune.PlacementGroupFactory([{"CPU": 4, "GPU": 1.0}])
    assert "workers" not in small and "workers" not in large
    assert huge["workers"] == 2 and huge["worker_resources"] == {"CPU": 4, "GPU": 1.0}
    assert not {"CPU", "GPU"} & set(waiting.required_resources)
    assert Tuner.settings == {"reuse": False, "most": 8}


def test_processes_are_reused_where_no_worker_waits_for_their_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_with_stand_in(monkeypatch, {("small", 1): 2.4}, [("small", 1)] * 3)
    assert Tuner.settings == {"reuse": True, "most": 8} and len(Tuner.trials) == 3


def resources_of(gb_of: dict[NetAtRes, float], **options: Any) -> PhaseResources:
    """Resources of trials that need so many GB each, which workers share, on two GPUs."""
    return PhaseResources(
        placement=Placement(options=ResourceOptions(**options), cluster_resources=TWO_GPUS),
        needs={net: MemoryNeed(gb=gb.__truediv__, max_workers=4) for net, gb in gb_of.items()},
    )


def run_with_stand_in(
    monkeypatch: pytest.MonkeyPatch,
    gb_of: dict[NetAtRes, float],
    nets: list[NetAtRes],
) -> list[tuple[Any, Any]]:
    """Run trials that need so many GB each, which workers share, on two GPUs."""
    resources = resources_of(gb_of)
    waiting = list(nets)
    monkeypatch.setattr(tune, "Tuner", Tuner)
    monkeypatch.setattr(tune, "with_parameters", lambda trainable, context: trainable)
    phase = Phase(
        queue=lambda: Queued(net=waiting.pop(0)) if waiting else None,
        should_continue=lambda work, result: False,
        failed=lambda work, error: None,
    )
    run_trials(tune.Trainable, [(phase, resources)], CONTEXT)
    assert [config["net_at_res"] for config, _ in Tuner.trials] == nets
    return Tuner.trials


def test_the_most_urgent_of_the_queued_trials_starts_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of equal ones the first that was queued; one that is tried again before all."""
    starting: set[str] = set()
    monkeypatch.setattr(tune_runner, "is_starting", lambda _, trial: trial.trial_id in starting)
    tasks, urgency = (
        Tasks(),
        {("d", 1): (0, 0), ("a", 1): (2, 0), ("b", 1): (1, 0), ("c", 1): (1, 0)},
    )
    phase = Phase(
        queue=lambda: None,
        should_continue=lambda work, result: False,
        failed=lambda work, trace: None,
        urgency=urgency.__getitem__,
    )
    resources = resources_of({("a", 1): 1.0})
    first, later = (RunningPhase(phase=phase, resources=resources, rank=rank) for rank in (0, 1))
    scheduler = tune_runner._PhaseScheduler(tasks)
    trials: dict[str, Any] = {}
    for net in urgency:
        name = net[0]
        trials[name] = SimpleNamespace(trial_id=name, status=Trial.PENDING)
        tasks[name] = Task(later if name == "d" else first, Queued(net=net), {})
        scheduler.on_trial_add(None, trials[name])
    order = []
    while (trial := scheduler.choose_trial_to_run(None)) is not None:
        assert scheduler.choose_trial_to_run(None) is trial, "asked again, it says the same"
        order.append(trial.trial_id)
        trial.status = Trial.RUNNING
    assert order == ["b", "c", "a", "d"], "those of a later phase after all others"
    tasks["a"].has_begun = True
    for name in ("b", "a"):
        trials[name].status = Trial.PENDING
        scheduler.on_trial_add(None, trials[name])
    assert scheduler.choose_trial_to_run(None) is trials["a"]
    starting.add("a")
    assert scheduler.choose_trial_to_run(None) is trials["b"], "the process of the other is coming"


FULL_TRACE = f"ray::train()\ntrainables.storage.full_disk.DiskFullError: {FULL}\n"


def test_a_disk_that_is_full_for_a_trial_ends_the_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    fault, retried, failed = tune_runner._Fault(), list[str](), list[str]()
    phase = fault.guarded(
        Phase(
            queue=lambda: Queued(net=NET),
            should_continue=lambda work, result: True,
            failed=lambda work, trace: failed.append(trace),
            retried=lambda work, trace, left: retried.append(trace),
            begin=lambda net: WORK,
        )
    )
    phase.retried(WORK, "ValueError: x", "")
    assert retried == ["ValueError: x"] and not fault.stop_all()
    assert phase.queue() is not None and phase.begin(NET) == WORK
    phase.retried(WORK, FULL_TRACE, "")
    assert fault.stop_all() and str(fault.error) == FULL
    assert retried == ["ValueError: x"]
    assert phase.queue() is None and phase.begin(NET) is None
    assert not phase.should_continue(WORK, {})


def test_what_a_callback_raises_leaves_the_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "Tuner", Tuner)
    monkeypatch.setattr(tune, "with_parameters", lambda trainable, context: trainable)

    def raise_full() -> Queued | None:
        raise DiskFullError(FULL)

    phase = Phase(
        queue=raise_full,
        should_continue=lambda work, result: False,
        failed=lambda work, error: None,
    )
    resources = PhaseResources(
        placement=Placement(options=ResourceOptions(), cluster_resources=TWO_GPUS),
        needs={("small", 1): MemoryNeed(gb=lambda workers: 1.0, max_workers=1)},
    )
    with pytest.raises(DiskFullError, match="is full"):
        run_trials(tune.Trainable, [(phase, resources)], CONTEXT)
    assert Tuner.trials == []


@dataclass
class Told:
    """What is asked and told of trials that have names for their work."""

    names: list[str | None]
    late: bool
    """Whether trials are given their names when they start."""
    waiting: list[str | None] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    retried: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    def queue(self) -> Queued | None:
        if not self.names:
            return None
        self.log.append("queued")
        name: Any = self.names.pop(0)
        if self.late:
            self.waiting.append(name)
        return Queued(net=NET, work=None if self.late else name)

    def begin(self, net: NetAtRes) -> Any:
        assert net == NET
        self.log.append("begun")
        return self.waiting.pop(0)

    def should_continue(self, work: Any, result: dict[str, Any]) -> bool:
        assert work == result["name"]
        self.log.append("ended")
        self.ended.append(work)
        return False


def core_each(cores: int = 1) -> PhaseResources:
    """Resources of trials that run on one core each, of so many."""
    available = ClusterResources(
        cores=cores, gpus=0, gpus_per_node=0, gpu=None, memory_gb=16, cluster=False
    )
    return PhaseResources(
        placement=Placement(
            options=ResourceOptions(concurrency=cores), cluster_resources=available
        ),
        needs={NET: MemoryNeed(gb=lambda workers: 0.1, max_workers=1)},
    )


def run(folder: Path, names: list[str | None], late: bool = False) -> Told:
    """Run trials; return what was told of those that ended, were given up, and tried again."""
    told = Told(names=names, late=late)
    phase = Phase(
        queue=told.queue,
        begin=told.begin,
        should_continue=told.should_continue,
        failed=lambda work, trace: told.failed.append(str(work)),
        retried=lambda work, trace, left: told.retried.append(str(work)),
    )
    resources = core_each()
    context: Any = FragileContext(marks=folder)
    run_trials(Fragile, [(phase, resources)], context)
    return told


@pytest.mark.slow
@pytest.mark.usefixtures("real_ray")
@pytest.mark.parametrize("late", [False, True])
def test_a_full_disk_is_not_tried_again(tmp_path: Path, late: bool) -> None:
    with pytest.raises(DiskFullError, match="The disk of /out is full: free some"):
        run(tmp_path, ["full", "never begun"], late)


@pytest.mark.slow
@pytest.mark.usefixtures("real_ray")
@pytest.mark.parametrize("late", [False, True])
def test_a_trial_is_tried_again_wherever_its_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """The process ends in a step or while it is reset for the next trial; not for ever.

    One that takes its work when it starts has none while it is reset.
    """
    monkeypatch.setattr(tune_runner, "MAX_FAILURES_WITHOUT_PROGRESS", 2)
    told = run(tmp_path, ["first", "broken", "step", "second", "reset"], late)
    assert sorted(set(told.ended)) == ["first", "reset", "second", "step"]
    assert told.failed == ["broken"]
    assert told.retried == ["broken", "broken", "step", *([] if late else ["reset"])]


@pytest.mark.slow
@pytest.mark.usefixtures("real_ray")
def test_a_trial_takes_its_work_when_it_starts_and_ends_where_there_is_none(tmp_path: Path) -> None:
    """What Tune keeps private still holds: a trial's actor, called before its first step."""
    told = run(tmp_path, ["first", None, "second"], late=True)
    assert set(told.ended) == {"first", "second"} and not told.failed and not told.retried
    assert told.log.index("begun") < told.log.index("ended"), told.log
    assert told.log.count("begun") == 3, "once each"


@pytest.mark.slow
@pytest.mark.usefixtures("real_ray")
def test_a_later_phase_takes_what_the_first_leaves_and_its_processes(tmp_path: Path) -> None:
    """On one core: its trials start while the first phase waits, in the process that is there."""
    order: list[str] = []
    pids: set[int] = set()
    left = {"first": ["a", "b", "c"], "later": ["x", "y"]}

    def phase(kind: str, may_queue: Callable[[], bool] = lambda: True) -> Phase:
        def take(work: Any, result: dict[str, Any]) -> bool:
            order.append(work)
            pids.add(result["pid"])
            return False

        def queue() -> Queued | None:
            if not (left[kind] and may_queue()):
                return None
            name: Any = left[kind].pop(0)
            return Queued(net=NET, work=name)

        return Phase(
            queue=queue,
            should_continue=take,
            failed=lambda work, trace: order.append(f"{work} failed"),
            preceded=lambda: order.append("over") if kind == "later" else None,
        )

    # The first waits, after its second trial, for the first of the later phase.
    first = phase("first", lambda: len(left["first"]) > 1 or "x" in order)
    run_trials(
        Fragile,
        [(first, core_each()), (phase("later"), core_each())],
        FragileContext(marks=tmp_path),  # type: ignore[arg-type]
    )
    assert [name for name in order if name != "over"] == ["a", "b", "x", "c", "y"]
    assert len(pids) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("real_ray")
def test_a_process_that_starts_is_not_ended_for_one_that_is_free(tmp_path: Path) -> None:
    """Trials end sooner than a second process has started: it comes to its turn all the same."""
    pids: set[int] = set()
    most = iter(range(60))  # 12 s in one process

    def queue() -> Queued | None:
        is_left = len(pids) < 2 and next(most, None) is not None
        return Queued(net=NET, work=WORK) if is_left else None

    def take(work: Any, result: dict[str, Any]) -> bool:
        pids.add(result["pid"])
        return False

    phase = Phase(queue=queue, should_continue=take, failed=lambda _, trace: pytest.fail(trace))
    context: Any = FragileContext(marks=tmp_path)
    run_trials(SlowToStart, [(phase, core_each(2))], context)
    assert len(pids) == 2
