"""A whole sweep that leaves out by its untouched nets what is not worth a trunk, and says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from sweeps import sweep as story
from sweeps.execution import screening
from sweeps.final_model.outcome import read_outcome
from sweeps.planning import building
from sweeps.planning.savings.screen import Screen, ScreenedPoint
from sweeps.report.model_card import model_card
from sweeps.scheduling import settled_cells
from sweeps.selection.untouched import with_left_out
from sweeps.terminal.plan_tables import plan_view
from sweeps.tracking.payloads import Results, result_note, result_tags
from tests.factories import a_row, file_console, output_of, plan_of, spec_with
from tests.fake_sweep import FakeSweep
from tests.sweeps.report.finished_sweep import PLAN, an_outcome
from tests.sweeps.report.test_page import made
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_json, write_tensors
from trainables.training.trunk import TrunkSpec, TrunkStatus

OPTIONS: dict[str, Any] = {"variants": ("b0", "b1"), "weights": "auto", "train_res": (64, 96, 128)}
OPTIONS |= {"test_res": (64, 96, 128)}
SCREEN = Screen(
    share=0.5, metric="top1", n=50,
    ranked=(
        ScreenedPoint(variant="b0", train_res=128, test_res=128, value=0.5, stays=True),
        ScreenedPoint(variant="b0", train_res=64, test_res=96, value=0.4, stays=False),
    ),
)  # fmt: skip
WORDS = "--screen 0.5 leaves 1 of 2 variants and train resolutions out"


def write_untouched(spec: TrunkSpec, _: int, store: Store[Path]) -> None:
    folder = store.trunk(spec.key)
    write_json(folder / "spec.json", spec)
    write_tensors(folder / "trunk.safetensors", {"w": torch.ones(1)})
    write_json(folder / "result.json", {"why": TrunkStatus.FINISHED, "reports": []})


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSweep:
    fake = FakeSweep(tmp_path / "a" / "out", monkeypatch)
    monkeypatch.setattr(building, "build_plan", lambda spec, *_: plan_of(spec, weights=True))
    monkeypatch.setattr(screening, "run_cells", fake.run_cells)
    for room in (settled_cells, screening):
        monkeypatch.setattr(room, "write_untouched", write_untouched)
    fake.spec = spec_with(fake.spec, **OPTIONS)
    return fake


def board(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / "leaderboard.parquet").to_pylist()
    return [row for row in rows if row["split"] == "val"]


def trained(out: Path) -> set[tuple[str, int]]:
    return {(row["variant"], row["train_res"]) for row in board(out) if not row["untouched"]}


@pytest.mark.slow
def test_what_is_left_out_is_not_trained_and_every_result_says_so(sweep: FakeSweep) -> None:
    """At 128 px the untouched nets have one hit more; of what is equal the cheaper stays."""
    sweep.spec = spec_with(sweep.spec, screen=0.5)
    said = sweep.run()
    assert trained(sweep.out) == {("b0", 64), ("b0", 128), ("b1", 128)}
    assert "--screen 0.5 leaves 3 of 6 variants and train resolutions out" in said
    assert said.index("screen   the untouched nets come first") < said.index("trunk b0")
    for left in ("b0 at 96", "b1 at 64", "b1 at 96"):
        assert left in said
    outcome = read_outcome(sweep.out, [])
    assert outcome is not None and outcome.screen is not None
    assert {str(one.point) for one in outcome.screen.left_out} == {"b0 at 96", "b1 at 64",
                                                                   "b1 at 96"}  # fmt: skip
    said_by = {(r["variant"], r["test_res"], r["left_out"]) for r in board(sweep.out) if
               r["untouched"]}  # fmt: skip
    assert said_by == {
        *(("b0", 64, ""), ("b0", 96, "96"), ("b0", 128, "")),
        *(("b1", 64, "64"), ("b1", 96, "96"), ("b1", 128, "")),
    }
    once = sweep.made.copy()
    assert "--screen 0.5 leaves 3" in sweep.run() and sweep.made == once, "it is finished"


@pytest.mark.slow
def test_a_larger_share_trains_what_was_left_out_and_nothing_again(
    sweep: FakeSweep,
) -> None:
    sweep.spec = spec_with(sweep.spec, screen=0.3)
    sweep.run()
    assert trained(sweep.out) == {("b0", 128), ("b1", 128)}
    before = set(sweep.made)
    sweep.made.clear()
    sweep.spec = spec_with(sweep.spec, screen=1.0)
    said = sweep.run()
    assert "extends  the sweep in" in said and not before & set(sweep.made)
    assert len(trained(sweep.out)) == 6
    assert json.loads((sweep.out / "choice.json").read_text())["screen"] is None
    assert {row["left_out"] for row in board(sweep.out)} == {""}


@pytest.mark.slow
def test_a_sweep_that_is_gone_on_with_is_screened_as_before(
    sweep: FakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    sweep.spec = spec_with(sweep.spec, screen=0.5)
    with monkeypatch.context() as patch:
        patch.setattr(story, "run_phases", killed)
        with pytest.raises(KeyboardInterrupt):
            sweep.run()
    assert len(sweep.made) == 12, "the cells of the untouched nets"
    said = sweep.run()
    assert "the untouched nets come first" not in said, "they are there"
    assert set(sweep.made.values()) <= {1, 2}  # trunks of two epochs
    assert trained(sweep.out) == {("b0", 64), ("b0", 128), ("b1", 128)}


def test_the_plan_says_what_a_screen_will_do_and_what_it_has_done() -> None:
    plan = plan_of(spec_with(**OPTIONS, screen=0.5), weights=True)
    console = file_console()
    console.print(plan_view(plan))
    assert "of the 6 variants and train resolutions, 3 to 4 are trained" in output_of(console)
    console = file_console()
    screened = plan.screened(SCREEN)
    console.print(plan_view(screened))
    assert WORDS in output_of(console)
    assert len(screened.points) == 5 and screened.cells_untouched == plan.cells_untouched
    assert screened.untouched() == plan.untouched()


def test_card_report_and_mlflow_say_what_was_left_out() -> None:
    outcome = replace(an_outcome(), screen=SCREEN)
    assert WORDS in model_card(PLAN, outcome, {}, "heatmap.png")
    assert WORDS in made(outcome)
    results = Results(choice=outcome.choice, rows=outcome.rows, screen=SCREEN.in_words)
    assert result_tags(results)["screen"] == SCREEN.in_words
    assert WORDS in result_note(results, [], "plan")


def test_the_rows_that_ranked_say_what_they_left_out() -> None:
    rows = [
        a_row(variant="b0", test_res=res, untouched=untouched)
        for res in (96, 128)
        for untouched in (True, False)
    ]
    assert [row.left_out for row in with_left_out(rows, SCREEN)] == ["64", "", "", ""]
    assert with_left_out(rows, None) == rows
