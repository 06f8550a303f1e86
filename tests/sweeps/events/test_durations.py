"""What is learnt from timings, and how often that is done."""

from __future__ import annotations

from typing import Any

import pytest
from scipy.optimize import least_squares

from sweeps.events.durations import Durations
from sweeps.events.event_types import EpochEnded, Event, TrunkBegan, TrunkEnded, TrunkPaused
from sweeps.events.forecast import forecast
from sweeps.planning.grid import point_of
from sweeps.planning.plan import Plan
from tests.factories import HYPER, plan_of, spec_with
from tests.fake_training import report_of
from tests.sweeps.events.test_progress import BEGAN, Clock
from trainables.training.trunk import TrunkSpec, TrunkStatus

PLAN = plan_of(spec_with(variants=("b0",), train_res=(64,), epochs=3, grace_epochs=3))
EVENTS = 2_000


def tell(durations: Durations, trunk: TrunkSpec, seconds: float, **before_s: float) -> None:
    report = report_of(PLAN, trunk, 1, at=int(1000 * (BEGAN + 1)))
    timed: dict[str, Any] = {**vars(report), "seconds": seconds, **before_s}
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


PROBED_PLAN = plan_of(spec_with(PLAN.spec, start="probe", samples=2))


def test_a_probe_is_timed_apart_from_the_epoch_and_from_the_start_of_the_trial() -> None:
    clock = Clock()
    durations, trunk = Durations(PROBED_PLAN, clock=clock), trunk_of(PROBED_PLAN)
    (point,) = PROBED_PLAN.points
    durations.on(TrunkBegan(trunk=trunk))
    clock.now += 2.0 + 30.0 + 4.0
    tell(durations, trunk, 4.0, probe_s=30.0)
    assert durations.epoch_s(point, 1) == pytest.approx(4.0, rel=0.02)
    assert durations.probe_s(point) == pytest.approx(30.0, rel=0.02)
    assert durations.start_s == pytest.approx(2.0)
    assert durations.timed_s == pytest.approx(34.0)


def test_waiting_for_a_probe_that_another_trial_fits_is_none_of_what_is_timed() -> None:
    clock = Clock()
    durations, trunk = Durations(PROBED_PLAN, clock=clock), trunk_of(PROBED_PLAN)
    durations.on(TrunkBegan(trunk=trunk))
    clock.now += 2.0 + 30.0 + 4.0
    tell(durations, trunk, 4.0, probe_wait_s=30.0)
    assert durations.start_s == pytest.approx(2.0)
    assert durations.timed_s == pytest.approx(4.0)


@pytest.mark.parametrize("how", ["epoch", "paused", "ended"])
def test_a_trunk_takes_the_time_of_a_probe_until_one_is_in_the_store(how: str) -> None:
    durations, trunk = Durations(PROBED_PLAN, clock=Clock()), trunk_of(PROBED_PLAN)
    plain = Durations(PLAN, clock=Clock())
    (point,), report = PROBED_PLAN.points, report_of(PROBED_PLAN, trunk, 1)
    probe_s = durations.probe_s(point)
    assert durations.trunk_s(point, 0, 3) == pytest.approx(plain.trunk_s(point, 0, 3) + probe_s)
    assert durations.trunk_s(point, 1, 3) == pytest.approx(plain.trunk_s(point, 1, 3)), "is begun"
    failed = TrunkEnded(trunk=trunk, status=TrunkStatus.FAILED, reports=(), error="at its start")
    durations.on(failed)
    assert durations.probes_left(point) == 1
    learnt = durations.learnt
    events: dict[str, Event] = {
        "epoch": EpochEnded(trunk=trunk, report=report, should_continue=True),
        "paused": TrunkPaused(trunk=trunk, after=1),
        "ended": TrunkEnded(trunk=trunk, status=TrunkStatus.CUT, reports=(report,)),
    }
    durations.on(events[how])
    assert durations.probes_left(point) == 0 and durations.learnt > learnt
    assert durations.trunk_s(point, 0, 3) == pytest.approx(plain.trunk_s(point, 0, 3))


def test_a_refit_fits_a_probe_of_its_own_on_more_images() -> None:
    plans = [plan_of(spec_with(p.spec, refit=True), val=50) for p in (PLAN, PROBED_PLAN)]
    plain, probed = (Durations(plan, clock=Clock()) for plan in plans)
    (point,), res = plans[1].points, plans[1].grid.tests[plans[1].points[0]][0]
    counts = plans[1].counts
    more = (counts["train"] + counts["val"]) / counts["train"]
    difference = probed.refit_s(point, res) - plain.refit_s(point, res)
    assert difference == pytest.approx(more * probed.probe_s(point))


def test_probes_are_in_the_forecast_once_for_each_point() -> None:
    options: dict[str, Any] = {"train_res": (64, 96), "samples": 3}
    plain, probed = (plan_of(spec_with(p.spec, **options)) for p in (PLAN, PROBED_PLAN))
    durations = Durations(probed, clock=Clock())
    both = forecast(plain, Durations(plain, clock=Clock())), forecast(probed, durations)
    probes_s = sum(durations.probe_s(point) for point in probed.points)
    for name in ("trunks_s", "trunks_most_s"):
        without, with_them = (getattr(one, name) for one in both)
        assert with_them == pytest.approx(without + probes_s)
