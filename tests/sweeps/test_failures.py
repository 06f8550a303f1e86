"""A sweep of which parts failed: results, exit code 3, and the next start tries those again."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps import fixres_grid
from sweeps import sweep as story
from sweeps.events.failures import Failure
from sweeps.final_model.outcome import read_outcome
from tests.fake_sweep import FakeSweep
from trainables.errors import IncompleteError
from trainables.storage.artifact_store import Store

pytestmark = pytest.mark.slow


def test_what_failed_is_told_and_made_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sweep, failures = FakeSweep(tmp_path / "out", monkeypatch), tuple[Failure, ...]()
    for lost in (2, 1):  # and once more
        sweep.lost_cells = lost
        with pytest.raises(IncompleteError, match=rf"^{lost} cells? failed, .*no room.*again\.$"):
            sweep.run()
        outcome = read_outcome(sweep.out, [])
        assert outcome is not None and len(outcome.failures) == lost
        assert {r.cell for r in outcome.rows}.isdisjoint(f.key for f in outcome.failures)
        failures = outcome.failures
        for failure in failures:
            trace = Store(sweep.out / "store").cell(failure.key) / "error.txt"
            assert failure.reason in trace.read_text()
    made = set(sweep.made)
    caplog.clear()
    sweep.run()
    assert "1 cell failed before: tried again" in caplog.text
    assert set(sweep.made) - made == {f.key for f in failures}
    assert set(sweep.made.values()) <= {1, 2}  # a trunk's epochs are counted, each once
    outcome = read_outcome(sweep.out, [])
    assert outcome is not None and not outcome.failures
    count = sweep.made.copy()
    sweep.run()
    assert sweep.made == count


def test_checkpoints_that_are_tried_again_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = FakeSweep(tmp_path / "out", monkeypatch)
    freed: list[object] = []
    monkeypatch.setattr(story, "free_disk", lambda *_: freed.append(1))
    sweep.lost_cells = 1
    with pytest.raises(IncompleteError):
        sweep.run()
    assert not freed
    sweep.run()
    assert freed


def test_the_exit_code_of_a_sweep_of_which_parts_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object) -> None:
        raise IncompleteError("1 cell failed.")

    monkeypatch.setattr(story, "run", run)
    assert fixres_grid.main(["--out", str(tmp_path / "out")]) == 3
    assert capsys.readouterr().err.splitlines()[-1] == "incomplete: 1 cell failed."
