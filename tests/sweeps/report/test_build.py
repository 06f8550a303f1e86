"""The evidence is one HTML file and its figures as PNG."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.events.recorders import History
from sweeps.report.build import draw_figures, write_evidence
from tests.factories import a_ledger_plan, a_record, an_ended_trunk
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
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg ") == len(files)


@pytest.mark.parametrize("epochs", [0, 6])
def test_there_are_learning_curves_only_with_training(epochs: int) -> None:
    plan = a_ledger_plan(epochs=epochs)
    figures = draw_figures(plan, an_outcome(), history(), spent())
    assert ("curves" in figures) is (epochs > 0)
