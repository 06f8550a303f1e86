"""The evidence is one HTML file and its figures as PNG."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sweeps.events.recorders import History
from sweeps.report.build import draw_figures, write_evidence
from tests.factories import a_ledger_plan, a_record, an_ended_trunk, predictions_of
from tests.sweeps.report.finished_sweep import CELLS, PLAN, TRUNKS, an_outcome, spent


def history() -> History:
    recorded = History()
    for trunk in TRUNKS:
        recorded.on(an_ended_trunk(trunk, [1.0] * 6))
    for cell in CELLS:
        recorded.on(cell)
    return recorded


def test_report_and_figures_are_written(tmp_path: Path) -> None:
    files = write_evidence(tmp_path, PLAN, an_outcome(), history(), a_record())
    assert [file.stem for file in files] == ["heatmap", "pareto", "curves", "arms", "spending"]
    for file in files:
        assert file.parent == tmp_path / "figures"
        assert file.read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "per_class.parquet").exists()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg ") == len(files)


def test_what_the_chosen_net_predicts_is_drawn_and_written(tmp_path: Path) -> None:
    outcome = an_outcome(predictions=[predictions_of("val"), predictions_of("test", 40)])
    files = write_evidence(tmp_path, PLAN, outcome, history(), a_record())
    assert {"confusions", "reliability"} <= {file.stem for file in files}
    assert pq.read_table(tmp_path / "per_class.parquet").num_rows == 2 * len(PLAN.classes)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Class by class" in page and "How sure it is" in page


@pytest.mark.parametrize("epochs", [0, 6])
def test_there_are_learning_curves_only_with_training(epochs: int) -> None:
    plan = a_ledger_plan(epochs=epochs)
    figures = draw_figures(plan, an_outcome(), history(), spent())
    assert ("curves" in figures) is (epochs > 0)
