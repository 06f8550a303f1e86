"""What commands spend is added up, also of commands that were interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.events.account import WRITE_EVERY_S, Account, Spent
from sweeps.events.event_types import CellBegan, CellEnded, EpochEnded, TrunkBegan, TrunkPaused
from sweeps.events.undone import Budgeted, budgeted, budgeted_from_json
from sweeps.planning.options.budget_options import BudgetOptions
from sweeps.planning.options.prices import prices_of
from tests.factories import a_row
from tests.sweeps.events.test_progress import PLAN, Clock, cells_of, timed, trunks_of
from trainables.storage.hashing import to_jsonable

CPU = "CPU of a test, 1 thread"


def account(path: Path, clock: Clock) -> Account:
    """Trunks take half a device, cells a quarter."""
    return Account(path, clock(), lambda *net: 0.5 if net[2] else 0.25, lambda: CPU, clock)


def train(told: Account, clock: Clock, seconds: float) -> None:
    trunk = trunks_of(PLAN)[0]
    told.on(TrunkBegan(trunk=trunk))
    for epoch in (1, 2):
        clock.now += seconds
        report = timed(trunk, epoch, clock, seconds)
        told.on(EpochEnded(trunk=trunk, report=report, should_continue=epoch < 2))
    told.on(TrunkPaused(trunk=trunk, after=2))


def test_time_by_the_clock_and_of_devices_is_counted_over_all_commands(tmp_path: Path) -> None:
    path, clock = tmp_path / "spending.jsonl", Clock()
    for command in range(1, 4):
        told = account(path, clock)
        train(told, clock, 100.0)
        clock.now += 50
        told.on(CellBegan(cell=cells_of(PLAN)[0]))
        told.on(CellEnded(cell=cells_of(PLAN)[0], rows=(a_row(seconds=8.0), a_row(seconds=4.0))))
        told.write()
        clock.now += 1000  # nothing runs
        assert account(path, clock).before.elapsed_s == pytest.approx(250 * command)
        assert told.devices == pytest.approx((100 + 3) / 1250)
    spent = account(path, clock).spent
    assert spent.device_s == pytest.approx({CPU: 3 * (100 + 3)})
    assert spent.all_device_s == pytest.approx(309)


def test_a_command_that_is_killed_has_written_what_it_spent_a_minute_before(tmp_path: Path) -> None:
    path, clock = tmp_path / "spending.jsonl", Clock()
    told = account(path, clock)
    for _ in range(10):
        train(told, clock, 0.6 * WRITE_EVERY_S)
    lost = told.spent.elapsed_s - account(path, clock).before.elapsed_s
    assert 0 <= lost <= 1.2 * WRITE_EVERY_S
    path.write_bytes(path.read_bytes()[:-5])  # cut short in its last line
    assert account(path, clock).before.elapsed_s > 0.7 * told.spent.elapsed_s


def test_devices_have_prices_by_parts_of_their_names() -> None:
    prices = prices_of(("T4=0.5", "A10G=1.0", "A10=0.9", "2"))
    assert prices.of("NVIDIA A10G") == 1.0 and prices.of("Tesla T4") == 0.5
    assert prices.of("NVIDIA A10") == 0.9 and prices.of("CPU AMD") == 2 == prices.highest
    assert prices_of(("T4=0.5",)).of("CPU AMD") is None and prices_of(()).highest is None
    spent = Spent(device_s={"Tesla T4": 7200.0, "NVIDIA H100": 3600.0})
    assert spent.cost(prices_of(("T4=0.5", "A10G=3"))) == pytest.approx(1.0 + 3.0)
    assert (spent + spent).cost(prices_of(("1",))) == pytest.approx(6.0)


def test_a_larger_budget_is_one_in_no_part_smaller() -> None:
    said = budgeted(BudgetOptions(budget_hours=2.0, budget_cost=5.0), Spent(elapsed_s=7000.0))
    assert said is not None and not said.is_incomplete
    more = (
        BudgetOptions(),
        BudgetOptions(budget_hours=3.0, budget_cost=5.0),
        BudgetOptions(budget_hours=2.0),
    )
    less = (
        BudgetOptions(budget_hours=2.0, budget_cost=5.0),
        BudgetOptions(budget_hours=3.0, budget_cost=4.0),
        BudgetOptions(budget_hours=1.0),
        BudgetOptions(budget_hours=2.0, budget_cost=5.0, budget_gpu_hours=1.0),
    )
    assert [said.allows_more(options) for options in (*more, *less)] == [True] * 3 + [False] * 4
    assert budgeted(BudgetOptions(), Spent()) is None


def test_what_was_left_undone_is_told_and_read_again() -> None:
    said = Budgeted(
        hours=0.5, gpu_hours=None, cost=2.0, spent_hours=0.49, spent_gpu_hours=0.4, spent_cost=1.5,
        trunks=3, points=tuple(f"b{i} at 64 px" for i in range(6)), cells=1,
    )  # fmt: skip
    assert budgeted_from_json(to_jsonable(said)) == said
    assert said.in_words == (
        "29 min of 30 min spent (--budget-hours), 1.50 of 2.00 spent (--budget-cost); left undone: "
        "3 trunks and 1 cell (no row of b0 at 64 px, b1 at 64 px, b2 at 64 px, b3 at 64 px and 2 "
        "more); a larger budget continues"
    )


def test_a_cell_that_the_store_held_is_not_counted_again(tmp_path: Path) -> None:
    clock = Clock()
    told, cell = account(tmp_path / "spending.jsonl", clock), cells_of(PLAN)[0]
    told.on(CellEnded(cell=cell, rows=(a_row(seconds=8.0),)))
    assert told.spent.all_device_s == 0
    told.on(CellBegan(cell=cell))
    for _ in range(2):
        told.on(CellEnded(cell=cell, rows=(a_row(seconds=8.0),)))
    assert told.spent.all_device_s == 2.0
