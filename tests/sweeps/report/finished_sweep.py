"""A finished sweep to report: its plan, rows, gains and ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sweeps.events.recorders import History
from sweeps.final_model.outcome import Outcome, PairedGain
from sweeps.report.ledger import Ledger, build_ledger
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row
from tests.factories import (
    a_ledger_plan,
    a_ledger_trunk,
    a_row,
    an_ended_cell,
    an_ended_trunk,
    outcome_of,
)
from trainables.fixres.predictions import Predictions
from trainables.training.trunk import TrunkStatus

# A name that must never be taken for markup.
WILD = '<b>x</b> & "y"'
PLAN = a_ledger_plan(max_gmacs=2.0)
TRUNKS = [a_ledger_trunk(PLAN, point, 1e-3) for point in (0, 1)]
CELLS = [an_ended_cell(PLAN, trunk, res) for trunk in TRUNKS for res in (64, 96)]
VAL = [row for cell in CELLS for row in cell.rows]
CHOSEN = replace(VAL[2], top1=0.7, latency_ms=12.3)
_UNTUNED = a_row(7, 30, split="test", arm="none", balanced_accuracy=0.25, macro_f1=0.2)
TEST = [a_row(9, 30, split="test", top5=0.95), _UNTUNED]
ROWS = [*VAL[:2], CHOSEN, *VAL[3:], *TEST, a_row(5, 30, split=WILD)]
GAINS = {
    "test": PairedGain(difference=0.067, error=0.031),
    WILD: PairedGain(difference=-0.1, error=0.2),
}
# Of a variant whose net was read untouched too.
UNTOUCHED = a_row(20, untouched=True, train_res=224, trunk_epochs=0, trunk="untouched")
ON_UNTOUCHED = {
    "test": PairedGain(difference=0.267, error=0.052),
    WILD: PairedGain(difference=0.3, error=0.07),
}


def spent(price_per_hour: float | None = 3.0) -> Ledger:
    """A ledger of two trunks, one of them cut, and four cells."""
    history = History()
    history.on(an_ended_trunk(TRUNKS[0], [10.0] * 6))
    history.on(an_ended_trunk(TRUNKS[1], [8.0, 12.0], TrunkStatus.CUT))
    for cell in CELLS:
        history.on(cell)
    return build_ledger(PLAN, history, ROWS, 7.5, 0.0, price_per_hour)


def an_outcome(
    chosen: Row = CHOSEN,
    gains: Mapping[str, PairedGain] = GAINS,
    rows: Sequence[Row] = ROWS,
    **facts: bool | int | Sequence[Predictions] | Mapping[str, PairedGain],
) -> Outcome:
    choice = Choice(row=chosen, reason="It is the best.", optimism=0.012)
    return outcome_of(list(rows), choice, gains=gains, **facts)  # type: ignore[arg-type]
