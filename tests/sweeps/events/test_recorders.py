"""Ends of trunks and cells: each kept once."""

from __future__ import annotations

from dataclasses import replace

from sweeps.events.event_types import CellEnded, TrunkBegan, TrunkEnded
from sweeps.events.failures import Failure, failures_in_words
from sweeps.events.recorders import History
from tests.factories import HYPER, a_row, plan_of, spec_with
from trainables.training.trunk import TrunkStatus

PLAN = plan_of(spec_with(variants=("b0",), train_res=(64, 96), test_res=(96, 128)))
TRUNKS = [PLAN.trunk(point, HYPER) for point in PLAN.points]
ENDED = [TrunkEnded(trunk=trunk, status=TrunkStatus.FINISHED, reports=()) for trunk in TRUNKS]
CELLS = [
    CellEnded(cell=PLAN.cell(trunk, 6, res, 1.0), rows=(a_row(test_res=res),))
    for trunk in TRUNKS
    for res in (96, 128)
]


def test_what_ended_is_kept_by_key_in_the_order_of_coming() -> None:
    history = History()
    for event in (ENDED[1], CELLS[3], CELLS[0], ENDED[0]):
        history.on(event)
    assert list(history.trunks.items()) == [(e.trunk.key, e) for e in (ENDED[1], ENDED[0])]
    assert list(history.cells.items()) == [(e.cell.key, e) for e in (CELLS[3], CELLS[0])]


def test_an_end_that_comes_twice_is_kept_once() -> None:
    history = History()
    for trunk in (*ENDED, *ENDED[::-1]):
        history.on(replace(trunk))
    for cell in (*CELLS, *CELLS[::-1]):
        history.on(replace(cell))
    assert list(history.trunks.values()) == ENDED
    assert list(history.cells.values()) == CELLS


def test_a_failure_is_kept_until_it_is_made_good() -> None:
    history, (trunk, _) = History(), TRUNKS
    trace = "Traceback:\n  ...\nRuntimeError: choose a smaller `batch_size`.\n"
    lost = TrunkEnded(trunk=trunk, status=TrunkStatus.FAILED, reports=(), error=trace)
    for event in (replace(CELLS[2], rows=(), error="ValueError: x"), lost, ENDED[1], CELLS[0]):
        history.on(event)
    first, second = history.failures
    assert (first.kind, first.key) == ("trunk", trunk.key)
    assert first.reason == "RuntimeError: choose a smaller --batch-size."
    assert (second.kind, second.name) == ("cell", "b0 96 -> 96 px, crop 1.0")
    assert failures_in_words(history.failures) == (
        "1 trunk and 1 cell failed, and the results are without them: trunk b0 at 64 px, lr "
        f"{HYPER.lr:.2g} (RuntimeError: choose a smaller --batch-size), cell b0 96 -> 96 px, crop "
        "1.0 (ValueError: x)"
    )
    for end in (ENDED[0], CELLS[2], lost):  # the last one is old news
        history.on(end)
    assert not history.failures


def test_of_many_failures_a_few_are_named() -> None:
    many = [Failure(kind="cell", name=f"c{i}", key="", reason="Lost.") for i in range(9)]
    assert failures_in_words(many).endswith(
        "cell c0 (Lost), cell c1 (Lost), cell c2 (Lost), 6 more"
    )


def test_what_only_began_or_goes_on_is_not_kept() -> None:
    history = History()
    history.on(TrunkBegan(trunk=TRUNKS[0]))
    assert not history.trunks and not history.cells
