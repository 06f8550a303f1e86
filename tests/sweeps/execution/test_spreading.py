"""Which trunks are spread over several GPUs, by the plan alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.execution.plan_resources import spread_line, spread_of, trunk_resources
from sweeps.execution.resources import ClusterResources, Gpu, Placement
from sweeps.execution.spreading import (
    DOUBLING_EFFICIENCY,
    LONGEST_SHARE,
    SHORT_S,
    group_speed,
    spread_trunks,
)
from sweeps.planning.grid import Point
from sweeps.planning.options.groups import ResourceOptions
from sweeps.planning.plan import Plan
from sweeps.planning.workload import dearest_first, expected_trunks, nominal_epoch_s
from sweeps.terminal.plan_tables import plan_view
from tests.factories import file_console, output_of, plan_of, spec_with
from trainables.profiling.cost import Cost, cost

SIDES = (64, 128, 320)
# Times as dear as they are: the largest one stands for b7, and is estimated sooner.
DEARER = {"b0": 1, "b1": 1, "lite1": 1, "lite0": 1, "lite2": 3, "lite3": 20}
AUTO = ResourceOptions(workers_per_trial="auto", gpu_memory_gb=80.0)


def plan_over(*variants: str, samples: int = 4, turned: bool = False, **options: Any) -> Plan:
    """A plan of nets of known cost, its options typed the other way round where ``turned``."""
    turn = slice(None, None, -1 if turned else 1)
    spec = spec_with(
        variants=variants[turn], train_res=SIDES[turn], test_res=SIDES[turn], samples=samples,
        epochs=9, **options,
    )  # fmt: skip
    costs = {(v, res): _cost(v, res) for v in variants for res in SIDES}
    return replace(plan_of(spec, train=1_000_000), costs=costs)


@cache
def uneven_plan(samples: int) -> Plan:
    return plan_over("lite0", "lite1", "lite2", "lite3", samples=samples)


def _cost(variant: str, res: int) -> Cost:
    own, factor = cost(variant, 64, 3), DEARER[variant] * (res / 64) ** 2
    return replace(own, gmacs=factor * own.gmacs, activations_m=factor * own.activations_m)


def plans() -> Iterator[Plan]:
    for samples in (1, 4, 9):
        for variants in (("lite0",), ("lite0", "lite2"), ("lite0", "lite1", "lite2", "lite3")):
            yield plan_over(*variants, samples=samples)


def alone_s(plan: Plan, point: Point) -> float:
    return sum(nominal_epoch_s(plan, point, e) for e in range(1, plan.spec.trunks.epochs + 1))


def all_s(plan: Plan, point: Point) -> float:
    epochs = range(1, plan.spec.trunks.epochs + 1)
    return sum(expected_trunks(plan, point, e) * nominal_epoch_s(plan, point, e) for e in epochs)


@pytest.mark.parametrize("gpus", [1, 2, 3, 4, 16, 64])
@pytest.mark.parametrize("most", [1, 2, 5, 16])
def test_no_trunk_takes_too_much_of_the_time_unless_it_can_be_spread_no_further(
    gpus: int, most: int
) -> None:
    for plan in plans():
        spread = spread_trunks(plan, gpus, dict.fromkeys(plan.points, most))
        workers = {p: spread[p].workers if p in spread else 1 for p in plan.points}
        waste = {p: workers[p] / group_speed(workers[p]) for p in plan.points}
        without = sum(all_s(plan, p) for p in plan.points) / gpus
        bound = LONGEST_SHARE * sum(waste[p] * all_s(plan, p) for p in plan.points) / gpus
        for point, count in workers.items():
            assert count in (1, 2, 4, 8, 16) and count <= max(1, min(gpus, most))
            took = alone_s(plan, point) / group_speed(count)
            assert took <= max(bound, SHORT_S) * 1.000001 or 2 * count > min(gpus, most)
            if count > 1:
                assert spread[point].spread_s == pytest.approx(took)
                assert spread[point].alone_s == pytest.approx(alone_s(plan, point))
                # Half as many would not have done.
                assert alone_s(plan, point) / group_speed(count // 2) > LONGEST_SHARE * without


def spread_one_by_one(plan: Plan, gpus: int, most: dict[Point, int]) -> dict[Point, int]:
    """The rule by its words: all points are looked at again before each doubling."""
    workers = dict.fromkeys(plan.points, 1)
    stays = set[Point]()
    while open_points := [p for p in dearest_first(plan) if p not in stays]:
        took = {p: alone_s(plan, p) / group_speed(workers[p]) for p in open_points}
        slowest = max(open_points, key=lambda p: took[p])
        device_s = sum(all_s(plan, p) * count / group_speed(count) for p, count in workers.items())
        if took[slowest] <= max(LONGEST_SHARE * device_s / gpus, SHORT_S):
            break
        if 2 * workers[slowest] > min(gpus, most[slowest]):
            stays.add(slowest)
        else:
            workers[slowest] *= 2
    return {p: count for p, count in workers.items() if count > 1}


@settings(deadline=None, max_examples=50)
@given(
    samples=st.sampled_from((1, 4, 27)),
    gpus=st.integers(1, 256),
    images=st.integers(1_000, 10_000_000),
    data=st.data(),
)
def test_what_is_spread_is_what_the_rule_says_whatever_the_plan(
    samples: int, gpus: int, images: int, data: st.DataObject
) -> None:
    plan = uneven_plan(samples)
    plan = replace(plan, counts={**plan.counts, "train": images})
    most = {p: data.draw(st.sampled_from((1, 2, 4, 5, 16, 128))) for p in plan.points}
    spread = spread_trunks(plan, gpus, most)
    assert {p: own.workers for p, own in spread.items()} == spread_one_by_one(plan, gpus, most)


def test_a_trunk_among_many_is_not_spread_and_one_that_is_most_of_the_work_is() -> None:
    alike = plan_over("lite0", "lite1", "b0", "b1", samples=9)
    assert spread_trunks(alike, 2, dict.fromkeys(alike.points, 16)) == {}
    dear = plan_over("lite0", "lite3", samples=1)
    spread = spread_trunks(dear, 4, dict.fromkeys(dear.points, 16))
    assert spread[Point(variant="lite3", train_res=320)].workers == 4
    assert Point(variant="lite0", train_res=64) not in spread


def test_the_order_in_which_options_are_typed_does_not_matter() -> None:
    one, other = (
        plan_over("lite0", "lite2", "lite3"),
        plan_over("lite0", "lite2", "lite3", turned=True),
    )
    for gpus in (4, 16):
        found = [spread_trunks(plan, gpus, dict.fromkeys(plan.points, 16)) for plan in (one, other)]
        assert found[0] == found[1] != {}


def test_what_is_over_soon_is_not_spread() -> None:
    plan = plan_over("lite0", "lite3", samples=1)
    soon = replace(plan, counts={**plan.counts, "train": 100})
    assert max(alone_s(soon, point) for point in soon.points) < SHORT_S
    assert spread_trunks(soon, 16, dict.fromkeys(soon.points, 16)) == {}


def test_doubled_workers_keep_a_share_of_the_speed() -> None:
    assert group_speed(1) == 1
    for workers in (1, 2, 4, 8):
        kept = group_speed(2 * workers) / (2 * group_speed(workers))
        assert kept == pytest.approx(DOUBLING_EFFICIENCY)


def placed(options: ResourceOptions, gpus: int, *, cluster: bool = True, cores: int = 64) -> Any:
    gpu = Gpu(gb=80.0, source="made up") if gpus else None
    return Placement(
        options=options,
        cluster_resources=ClusterResources(
            cores=cores, gpus=gpus, gpus_per_node=min(gpus, 4), gpu=gpu, memory_gb=64.0,
            cores_per_gpu=cores // gpus if gpus else None, cluster=cluster,
        ),
    )  # fmt: skip


def workers_of(plan: Plan, placement: Placement) -> dict[str, int]:
    trials = trunk_resources(plan, placement).trial_resources
    return {f"{v}@{res}": trial.workers for (v, res), trial in trials.items() if trial.workers > 1}


def test_trials_of_a_spread_point_have_a_whole_gpu_for_each_worker() -> None:
    plan, placement = plan_over("lite0", "lite3", samples=1), placed(AUTO, 8)
    spread = spread_of(plan, placement)
    assert workers_of(plan, placement) == {
        f"{p.variant}@{p.train_res}": s.workers for p, s in spread.items()
    }
    for (variant, res), trial in trunk_resources(plan, placement).trial_resources.items():
        is_spread = Point(variant=variant, train_res=res) in spread
        assert (trial.gpus == 1.0) == is_spread and ("workers" in trial.config) == is_spread


def test_nothing_is_spread_unless_it_is_asked_for_and_there_are_gpus() -> None:
    plan = plan_over("lite0", "lite3", samples=1)
    assert workers_of(plan, placed(replace(AUTO, workers_per_trial=None), 8)) == {}
    assert workers_of(plan, placed(AUTO, 1)) == {}
    assert workers_of(plan, placed(replace(AUTO, gpu_memory_gb=None), 0, cluster=False)) == {}
    assert workers_of(plan, placed(replace(AUTO, gpus_per_trial=0.0), 8)) == {}


def test_gpus_that_are_yet_to_come_are_those_that_are_said_on_a_cluster_alone() -> None:
    plan = plan_over("lite0", "lite3", samples=1)
    said = replace(AUTO, cluster_gpus=8)
    assert workers_of(plan, placed(said, 0)) == workers_of(plan, placed(AUTO, 8)) != {}
    assert workers_of(plan, placed(said, 1, cluster=False)) == {}


def test_on_one_machine_workers_leave_gpus_and_cores_for_as_many_trials_as_are_asked_for() -> None:
    plan = plan_over("lite0", "lite3", samples=1)
    assert max(workers_of(plan, placed(AUTO, 8, cluster=False)).values()) == 8
    two = placed(replace(AUTO, concurrency=2), 8, cluster=False)
    assert max(workers_of(plan, two).values()) == 4
    assert max(workers_of(plan, placed(AUTO, 8, cluster=False, cores=2)).values()) == 2


def test_a_batch_leaves_two_images_for_each_worker() -> None:
    plan = plan_over("lite0", "lite3", samples=1, batch_size=8)
    assert max(workers_of(plan, placed(AUTO, 64)).values()) == 4


def test_the_plan_says_what_is_spread_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_over("lite0", "lite3", samples=1)
    line = spread_line(plan, placed(AUTO, 4))
    assert "lite3 at 320 px over 4 workers (" in line and "time that 4 GPUs take for all" in line
    alike = plan_over("lite0", "lite1", "b0", "b1", samples=9)
    assert spread_line(alike, placed(AUTO, 2)).startswith("nothing, as no trunk is to take more")
    assert spread_line(plan, placed(replace(AUTO, workers_per_trial=4), 4)) == ""
    assert spread_line(plan, placed(AUTO, 0, cluster=False)) == "nothing, over 0 GPU(s)"
    assert "--cluster-gpus says" in spread_line(plan, placed(AUTO, 0))

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    told: dict[str, Any] = {"workers_per_trial": "auto", "gpu_memory_gb": 80.0, "cluster_gpus": 4}
    console = file_console()
    console.print(plan_view(plan_over("lite0", "lite3", samples=1, **told)))
    assert f"spread {line}" in " ".join(output_of(console).split())
    assert "on each of 4" in output_of(console)
