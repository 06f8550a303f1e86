"""Which trials may be queued beside which, of phases that run at a time."""

from __future__ import annotations

from typing import Any

import pytest

from sweeps.execution import tune_runner
from sweeps.execution.resources import (
    ClusterResources,
    Gpu,
    MemoryNeed,
    NetAtRes,
    PhaseResources,
    Placement,
)
from sweeps.execution.tasks import MAX_WAITING_OF_LATER_PHASES, Phase, Queued, RunningPhase, Tasks
from sweeps.planning.options.groups import ResourceOptions

TRUNK, CELL = ("trunk", 64), ("cell", 96)


def resources_of(net: NetAtRes, gb: float, *, cluster: bool, **options: Any) -> PhaseResources:
    """Resources of a phase whose trials need so much of two GPUs of 8 GB each."""
    available = ClusterResources(
        cores=16, gpus=2, gpus_per_node=2, gpu=Gpu(gb=8, source="x"), memory_gb=64, cluster=cluster
    )
    placement = Placement(options=ResourceOptions(**options), cluster_resources=available)
    return PhaseResources(
        placement=placement, needs={net: MemoryNeed(gb=lambda _: gb, max_workers=1)}
    )


class Run:
    """A searcher over trunks and cells; trials begin and end as a test says."""

    def __init__(self, trunks: int, cells: int, *, cluster: bool = False, **options: Any):
        self.left = {TRUNK: trunks, CELL: cells}
        self.log: list[str] = []
        self.tasks = Tasks()
        phases = [
            RunningPhase(
                phase=self._phase(net),
                resources=resources_of(net, gb, cluster=cluster, **options),
                rank=rank,
            )
            for rank, (net, gb) in enumerate(((TRUNK, 4.0), (CELL, 2.0)))
        ]
        self.searcher = tune_runner._PhaseSearcher(
            phases, self.tasks, tune_runner._PhaseScheduler(self.tasks)
        )
        self.count = 0

    def _phase(self, net: NetAtRes) -> Phase:
        def queue() -> Queued | None:
            if not self.left[net]:
                return None
            self.left[net] -= 1
            return Queued(net=net)

        return Phase(
            queue=queue,
            should_continue=lambda *_: False,
            failed=lambda *_: None,
            begin=lambda _: "work",  # type: ignore[arg-type,return-value]
            preceded=lambda: self.log.append(net[0]),
        )

    def ask(self) -> str | None:
        """Have the next trial queued; say of what kind, or how that is refused."""
        self.count += 1
        found = self.searcher.suggest(str(self.count))
        return found if found is None or isinstance(found, str) else found["net_at_res"][0]

    def begin(self) -> None:
        for task in self.tasks.values():
            task.begin()

    def end(self, kind: str) -> None:
        of_kind = [i for i, task in self.tasks.items() if task.queued.net[0] == kind]
        self.searcher.on_trial_complete(of_kind[0])


def test_trunks_come_first_and_cells_take_what_they_leave() -> None:
    """Four trunks fill two GPUs, or eight cells, or two trunks and four cells."""
    run = Run(trunks=6, cells=20)
    for _ in range(4):
        assert run.ask() == "trunk"
        run.begin()
    assert run.ask() is None and run.left[TRUNK] == 2  # all is taken
    run.end("trunk")
    assert run.ask() == "trunk"
    run.begin()
    run.end("trunk")
    assert run.ask() == "trunk" and run.left[TRUNK] == 0
    run.begin()
    run.end("trunk")
    run.end("trunk")
    for _ in range(4):
        assert run.ask() == "cell"
        run.begin()
    assert run.ask() is None, "two trunks and four cells are all there is room for"


def test_nothing_passes_a_trunk_that_waits_to_begin() -> None:
    run = Run(trunks=1, cells=5)
    assert run.ask() == "trunk"
    assert run.ask() is None
    run.begin()
    assert run.ask() == "cell"


def test_the_end_of_trunks_is_told_to_cells_once_none_runs() -> None:
    run = Run(trunks=1, cells=1)
    assert run.ask() == "trunk"
    run.begin()
    assert run.ask() == "cell" and "cell" not in run.log
    run.begin()
    run.end("trunk")
    assert run.ask() is None and "cell" in run.log
    run.end("cell")
    assert run.ask() == "FINISHED"


def test_the_user_bounds_trials_of_both_kinds_together() -> None:
    run = Run(trunks=1, cells=9, concurrency=3)
    kinds = []
    while (kind := run.ask()) is not None:
        kinds.append(kind)
        run.begin()
    assert kinds == ["trunk", "cell", "cell"]


def test_on_a_cluster_only_so_many_cells_wait_that_a_trunk_finds_room_in_the_queue() -> None:
    run = Run(trunks=0, cells=100, cluster=True)
    kinds = [run.ask() for _ in range(MAX_WAITING_OF_LATER_PHASES + 1)]
    assert kinds == ["cell"] * MAX_WAITING_OF_LATER_PHASES + [None]
    run.begin()
    run.left[TRUNK] = 1
    assert [run.ask(), run.ask()] == ["trunk", None]


def test_as_many_run_at_a_time_as_the_kind_that_takes_least_allows() -> None:
    phases = [
        RunningPhase(
            phase=Phase(
                queue=lambda: None, should_continue=lambda *_: False, failed=lambda *_: None
            ),
            resources=resources_of(net, gb, cluster=False),
            rank=rank,
        )
        for rank, (net, gb) in enumerate(((TRUNK, 4.0), (CELL, 2.0)))
    ]
    assert tune_runner._most_at_a_time(phases) == 8


@pytest.mark.parametrize("has_begun", [True, False])
def test_nothing_is_queued_while_workers_wait_for_what_trials_leave(
    monkeypatch: pytest.MonkeyPatch, has_begun: bool
) -> None:
    """The cluster is not asked where no trial with workers has begun."""
    waits, asked = [True, True, False], []

    def workers_wait() -> bool:
        asked.append(1)
        return waits.pop(0)

    monkeypatch.setattr(tune_runner, "workers_wait", workers_wait)
    run = Run(trunks=3, cells=0, cluster=True)
    assert run.ask() == "trunk" and not asked
    (task,) = run.tasks.values()
    task.config["workers"] = 2
    if has_begun:
        run.begin()
        assert [run.ask(), run.ask()] == [None, None]
    assert run.ask() == "trunk" and len(asked) == 3 * has_begun
