"""A whole sweep within a budget: what it leaves undone is told everywhere, and gone on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.events.undone import Budgeted
from sweeps.execution import budgeting
from sweeps.execution.budgeting import check_budget
from sweeps.final_model.outcome import read_outcome
from sweeps.report.model_card import model_card
from sweeps.tracking.payloads import Results, result_note, result_tags
from tests.factories import a_row, spec_with
from tests.fake_sweep import FakeSweep
from tests.sweeps.report.finished_sweep import PLAN, an_outcome
from tests.sweeps.report.test_page import made
from trainables.errors import SweepError, UserError

SPENT = Budgeted(
    hours=1.0, gpu_hours=None, cost=None, spent_hours=0.9, spent_gpu_hours=0.0, spent_cost=0.0,
    trunks=2, points=("b0 at 64 px",), cells=0,
)  # fmt: skip
WORDS = (
    "54 min of 60 min spent (--budget-hours); left undone: 2 trunks (no row of b0 at 64 px); a "
    "larger budget continues"
)


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSweep:
    monkeypatch.setattr(budgeting, "time_device", lambda *_: [])
    return FakeSweep(tmp_path / "a" / "out", monkeypatch)


@pytest.mark.slow
def test_a_budget_too_small_for_a_trunk_is_one_sentence_and_a_larger_one_goes_on(
    sweep: FakeSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = sweep.spec
    sweep.spec = spec_with(free, budget_hours=1e-9)
    with pytest.raises(SweepError, match=r"No trunk was trained to its end \(.*-hours\)\): raise"):
        sweep.run()
    assert not sweep.made
    sweep.spec = spec_with(free, budget_hours=1000.0)
    assert "nothing was left undone" in sweep.run()
    written = json.loads((sweep.out / "choice.json").read_text())["budget"]
    assert written["trunks"] == 0 and written["hours"] == 1000.0
    once = sweep.made.copy()
    sweep.run()
    assert sweep.made == once, "it is finished"

    whole = FakeSweep(tmp_path / "b" / "out", monkeypatch)
    whole.run()
    trunks = [{p.name for p in made.out.glob("store/trunks/*")} for made in (sweep, whole)]
    assert trunks[0] == trunks[1] and len(trunks[0]) == 4
    assert sum(sweep.made.values()) == sum(whole.made.values()), "cuts save as much"


@pytest.mark.slow
def test_a_finished_sweep_goes_on_where_its_budget_left_something_undone(sweep: FakeSweep) -> None:
    sweep.run()
    path = sweep.out / "choice.json"
    choice = json.loads(path.read_text())
    path.write_text(json.dumps({**choice, "budget": vars(SPENT)}))
    outcome = read_outcome(sweep.out, [])
    assert outcome is not None and outcome.budgeted == SPENT
    free = sweep.spec
    for same in (1.0, 0.5):
        sweep.spec = spec_with(free, budget_hours=same)
        assert f"budget   {WORDS}" in sweep.run()
    sweep.spec = free
    assert "budget" not in sweep.run()
    assert json.loads(path.read_text())["budget"] is None


def test_report_card_and_mlflow_say_what_was_spent_and_left_undone() -> None:
    outcome = replace(an_outcome(), budgeted=SPENT)
    assert f"Budget: {WORDS}." in made(outcome)
    assert "Budget:" not in made(an_outcome())
    card = model_card(PLAN, outcome, {"torch": "2.0"}, "heatmap.png")
    assert f"Budget: {WORDS}." in card
    results = Results(choice=outcome.choice, rows=[a_row()], budget=SPENT.in_words)
    assert result_tags(results)["budget"] == WORDS
    assert f"Budget: {WORDS}." in result_note(results, [], "The plan.")
    assert "budget" not in result_tags(replace(results, budget=""))


def test_hours_of_gpus_are_bounded_where_there_are_some() -> None:
    here = spec_with(budget_gpu_hours=2.0, gpus_per_trial=0.0)
    with pytest.raises(UserError, match=r"2 counts GPUs, .*: give --budget-hours"):
        check_budget(here)
    check_budget(spec_with(budget_gpu_hours=2.0, gpus_per_trial=1.0))
    check_budget(spec_with(budget_hours=2.0, gpus_per_trial=0.0))
