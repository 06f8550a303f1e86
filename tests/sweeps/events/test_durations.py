"""What is learnt from timings, and how often that is done."""

from __future__ import annotations

from typing import Any

import pytest
from scipy.optimize import least_squares

from sweeps.events.durations import Durations
from sweeps.events.event_types import EpochEnded
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
