"""How long a budget lasts, by what this command has spent."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from sweeps.events.account import Account, Spent
from sweeps.events.durations import Durations
from sweeps.events.event_types import CellBegan, CellEnded
from sweeps.execution.budgeting import Spending
from tests.factories import a_row, plan_of, spec_with
from tests.sweeps.events.test_progress import Clock, cells_of
from trainables.storage.artifact_store import Store

SPENT = Spent(elapsed_s=100.0, device_s={"NVIDIA H100": 400.0})


def spending(root: Path, **budget: Any) -> Spending:
    """Four cells have taken a device each, side by side, since this command began."""
    plan, clock = plan_of(spec_with(variants=("b0",), **budget)), Clock()
    account = Account(
        root / "spending.jsonl", clock(), lambda *_: 1.0, lambda: "NVIDIA H100", clock
    )
    cells = cells_of(plan)[:4]
    for cell in cells:
        account.on(CellBegan(cell=cell))
    clock.now += 100
    for cell in cells:
        account.on(CellEnded(cell=cell, rows=(a_row(seconds=100.0),)))
    assert account.spent == SPENT
    return Spending(plan, Store(root), Durations(plan, clock=clock), account, None)


def test_without_a_budget_no_time_is_told(tmp_path: Path) -> None:
    assert spending(tmp_path).left_s() == math.inf


@pytest.mark.parametrize(
    "budget", [{"budget_gpu_hours": 1.0}, {"budget_cost": 2.0, "price_per_hour": ("H100=2",)}]
)
def test_what_is_left_of_devices_lasts_by_the_pace(tmp_path: Path, budget: dict[str, Any]) -> None:
    spent = spending(tmp_path, **budget)
    assert spent.left_s() == pytest.approx((3600 - 400) / 4)
    assert spent.left_s(0.25) == pytest.approx(3600 - 400)


def test_hours_by_the_clock_go_by_at_any_pace(tmp_path: Path) -> None:
    spent = spending(tmp_path, budget_hours=1.0, budget_gpu_hours=100.0)
    assert spent.left_s() == spent.left_s(0.25) == 3600 - 100
