"""What is learnt from timings, and how often that is done."""

from __future__ import annotations

from typing import Any

import pytest
from scipy.optimize import least_squares

from sweeps.events.durations import Durations
from sweeps.events.event_types import EpochEnded
from sweeps.planning.grid import point_of
from sweeps.planning.plan import Plan
from tests.factories import HYPER, plan_of, spec_with
from tests.fake_training import report_of
from tests.sweeps.events.test_progress import BEGAN, Clock
from trainables.training.trunk import TrunkSpec

PLAN = plan_of(spec_with(variants=("b0",), train_res=(64,), epochs=3, grace_epochs=3))
EVENTS = 2_000


def tell(durations: Durations, trunk: TrunkSpec, seconds: float) -> None:
    report = report_of(PLAN, trunk, 1, at=int(1000 * (BEGAN + 1)))
    timed: dict[str, Any] = {**vars(report), "seconds": seconds}
    durations.on(EpochEnded(trunk=trunk, report=type(report)(**timed), should_continue=True))


def trunk_of(plan: Plan) -> TrunkSpec:
    return plan.trunk(plan.points[0], HYPER)


def test_after_thousands_of_epochs_it_is_learnt_from_them_as_they_grow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fits = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal fits
        fits += 1
        return least_squares(*args, **kwargs)

    monkeypatch.setattr("trainables.profiling.speed.least_squares", counted)
    durations, trunk = Durations(PLAN, clock=Clock()), trunk_of(PLAN)
    for _ in range(EVENTS):
        tell(durations, trunk, 7.0)
        assert durations.epoch_s(PLAN.points[0], 1) == pytest.approx(7.0, rel=0.02)
    # By the tenth from 10 on: log(2,000 / 10) / log(1.1) = 56 times, and rounding.
    assert 40 < fits < 90


@pytest.mark.parametrize("before", [3, 50])
def test_a_machine_that_has_become_slower_is_found_out(before: int) -> None:
    durations, trunk = Durations(PLAN, clock=Clock()), trunk_of(PLAN)
    for _ in range(before):
        tell(durations, trunk, 2.0)
    for _ in range(before // 10 + 5):  # what is learnt next, and the latest that are kept of a kind
        tell(durations, trunk, 6.0)
    assert durations.epoch_s(PLAN.points[0], 1) == pytest.approx(6.0, rel=0.02)


def test_a_net_is_predicted_by_the_share_of_the_gpu_that_it_has() -> None:
    """Two nets, one that shares its GPU and one that does not: each has its own device."""
    plan = plan_of(spec_with(variants=("b0",), train_res=(64, 96), epochs=3, grace_epochs=3))
    durations = Durations(plan, clock=Clock())
    small, large = (plan.trunk(point, HYPER) for point in plan.points)
    for trunk, device, seconds in [
        (small, "NVIDIA T4, 25 % of it", 8.0),
        (large, "NVIDIA T4", 5.0),
        (small, "NVIDIA T4, 25 % of it", 8.0),
    ]:
        report = report_of(plan, trunk, 1, at=int(1000 * (BEGAN + 1)))
        timed: dict[str, Any] = {**vars(report), "seconds": seconds, "device": device}
        report = type(report)(**timed)
        durations.on(EpochEnded(trunk=trunk, report=report, should_continue=True))
    for trunk, seconds in [(small, 8.0), (large, 5.0)]:
        assert durations.epoch_s(point_of(trunk), 1) == pytest.approx(seconds, rel=1e-3)
    assert durations.device == "NVIDIA T4, 25 % of it", "on which most was timed"


def test_a_refit_takes_a_trunk_and_a_cell_on_more_images() -> None:
    plan = plan_of(spec_with(PLAN.spec, refit=True), val=50)
    durations, trunk = Durations(plan, clock=Clock()), trunk_of(plan)
    for _ in range(3):
        tell(durations, trunk, 4.0)
    point, res = plan.points[0], plan.grid.tests[plan.points[0]][0]
    counts = plan.counts
    once = durations.trunk_s(point, 0, 3) + durations.cell_s(point.variant, res)
    expected = once * (counts["train"] + counts["val"]) / counts["train"]
    assert durations.refit_s(point, res) == pytest.approx(expected)
