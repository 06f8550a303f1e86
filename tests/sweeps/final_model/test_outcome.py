"""The outcome of a sweep is read again as it was written; gains are paired."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeps.final_model.outcome import (
    PairedGain,
    finished_outcome,
    lost_results,
    paired_gain,
    read_outcome,
    served_as_swept,
    write_choice,
)
from sweeps.output.location import SweepLocation
from sweeps.output.sweep_record import extended_record
from sweeps.planning.spec import identity
from sweeps.selection import leaderboard
from tests.factories import (
    CONDITIONS,
    HYPER,
    a_record,
    a_row,
    a_served_latency,
    an_int8_net,
    outcome_of,
    plan_of,
    predictions_of,
    spec_with,
)
from trainables.storage.artifact_store import Store
from trainables.storage.damage import DamagedFileError
from trainables.storage.files import read_json, write_json

ROWS = [a_row(90, 100), a_row(40, 50, split="test"), a_row(30, 50, split="test", arm="none")]
GAINS = {"test": PairedGain(difference=0.2, error=0.05)}
UNTOUCHED = {"test": PairedGain(difference=0.3, error=0.06)}


def test_read_as_written(tmp_path: Path) -> None:
    found = [predictions_of("val", 100), predictions_of("test", 50)]
    outcome = outcome_of(
        ROWS, gains=GAINS, gains_on_untouched=UNTOUCHED, refit=True, test_cells=2, predictions=found
    )
    assert outcome.calibration is not None
    leaderboard.write(tmp_path / "leaderboard.parquet", outcome.rows)
    assert read_outcome(tmp_path, ()) is None
    write_choice(tmp_path, outcome)
    assert read_outcome(tmp_path, ()) == outcome
    assert outcome.test == ROWS[1]


def test_a_choice_of_a_version_without_calibration_is_read(tmp_path: Path) -> None:
    outcome = outcome_of(ROWS, gains=GAINS)
    leaderboard.write(tmp_path / "leaderboard.parquet", outcome.rows)
    write_choice(tmp_path, outcome)
    record: Any = read_json(tmp_path / "choice.json")
    assert record.pop("calibration") is None
    write_json(tmp_path / "choice.json", record)
    assert read_outcome(tmp_path, ()) == outcome


def test_latencies_are_read_as_written(tmp_path: Path) -> None:
    outcome = outcome_of(ROWS, latency=CONDITIONS, served_latency=a_served_latency(2.5, threads=1))
    leaderboard.write(tmp_path / "leaderboard.parquet", outcome.rows, outcome.latency)
    write_choice(tmp_path, outcome)
    assert read_outcome(tmp_path, ()) == outcome
    written = json.loads((tmp_path / "choice.json").read_text())
    assert written["latency"]["runtime"] == "onnx"
    assert written["served_latency"]["latency"]["latency_ms"] == 2.5
    for name in ("latency", "served_latency"):  # as an earlier version wrote it
        del written[name]
    (tmp_path / "choice.json").write_text(json.dumps(written))
    assert read_outcome(tmp_path, ()) == outcome_of(ROWS)


def test_the_net_in_eight_bits_is_read_as_written_and_made_where_it_lacks(tmp_path: Path) -> None:
    leaderboard.write(tmp_path / "leaderboard.parquet", ROWS)
    write_choice(tmp_path, outcome_of(ROWS))
    assert read_outcome(tmp_path, ()) == outcome_of(ROWS)
    assert read_outcome(tmp_path, (), int8=True) is None
    write_choice(tmp_path, outcome_of(ROWS, int8=an_int8_net()))
    for asked in (True, False):
        assert read_outcome(tmp_path, (), int8=asked) == outcome_of(ROWS, int8=an_int8_net())


def test_the_net_for_openvino_is_made_where_it_lacks(tmp_path: Path) -> None:
    leaderboard.write(tmp_path / "leaderboard.parquet", ROWS)
    write_choice(tmp_path, outcome_of(ROWS))
    assert read_outcome(tmp_path, (), openvino=True) is None
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.xml").write_text("<net/>")
    assert read_outcome(tmp_path, (), openvino=True) == outcome_of(ROWS)


def test_a_set_that_is_still_to_be_read_makes_it_unfinished(tmp_path: Path) -> None:
    outcome = outcome_of(ROWS, gains=GAINS)
    leaderboard.write(tmp_path / "leaderboard.parquet", outcome.rows)
    write_choice(tmp_path, outcome)
    assert read_outcome(tmp_path, ("sketch",)) is None


@pytest.mark.parametrize("name", ["choice.json", "leaderboard.parquet"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"PAR1", b"\xff" * 99])
def test_a_damaged_file_makes_it_unfinished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: bytes
) -> None:
    outcome = outcome_of(ROWS, gains=GAINS)
    leaderboard.write(tmp_path / "leaderboard.parquet", outcome.rows)
    write_choice(tmp_path, outcome)
    (tmp_path / name).write_bytes(content)
    assert read_outcome(tmp_path, ()) is None
    assert f"{name} is damaged" in caplog.text


def test_a_leaderboard_of_unknown_arms_is_damaged(tmp_path: Path) -> None:
    leaderboard.write(tmp_path / "board.parquet", [a_row(9, 10, arm="../x")])
    with pytest.raises(DamagedFileError, match="no arm"):
        leaderboard.read(tmp_path / "board.parquet")


def test_results_that_are_not_what_was_written_are_listed(tmp_path: Path) -> None:
    outcome = outcome_of(ROWS, gains=GAINS)
    for name in ("report.html", "model/model.onnx", "model/README.md", "figures/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    leaderboard.write(tmp_path / "leaderboard.parquet", outcome.rows)
    write_choice(tmp_path, outcome)
    assert lost_results(tmp_path) == []
    (tmp_path / "model" / "README.md").write_text("with links")  # as in an object store
    (tmp_path / "model" / "model.onnx").write_text("model/model.onny")
    (tmp_path / "report.html").unlink()
    assert sorted(lost_results(tmp_path)) == ["model/model.onnx", "report.html"]


def test_a_choice_of_a_version_that_did_not_read_the_untouched_net_is_read(tmp_path: Path) -> None:
    outcome = outcome_of(ROWS, gains=GAINS, gains_on_untouched=UNTOUCHED)
    leaderboard.write(tmp_path / "leaderboard.parquet", outcome.rows)
    write_choice(tmp_path, outcome)
    record = read_json(tmp_path / "choice.json")
    assert record is not None and record.pop("gains_on_untouched") == {
        "test": {"difference": 0.3, "error": 0.06}
    }
    write_json(tmp_path / "choice.json", record)
    assert read_outcome(tmp_path, ()) == outcome_of(ROWS, gains=GAINS)


def test_what_is_gained_on_the_untouched_net_is_a_metric_of_each_set() -> None:
    gains = {**UNTOUCHED, "v:2": PairedGain(difference=-0.1, error=0.02)}
    assert outcome_of(ROWS, gains=GAINS, gains_on_untouched=gains).further_metrics == {
        "test/on_untouched": 0.3,
        "test/on_untouched_error": 0.06,
        "v_2/on_untouched": -0.1,
        "v_2/on_untouched_error": 0.02,
    }
    assert outcome_of(ROWS, gains=GAINS).further_metrics == {}


def test_a_gain_is_the_paired_difference() -> None:
    tuned = np.array([True] * 6 + [False] * 2 + [True] * 12)
    untuned = np.array([False] * 6 + [True] * 2 + [True] * 12)
    gain = paired_gain(tuned, untuned)
    assert gain.difference == pytest.approx(4 / 20)
    # The standard error of Agresti and Min counts 6.5 and 2.5 of 22 images.
    assert gain.error == pytest.approx(math.sqrt(9 - 16 / 22) / 22)


def test_the_choice_of_a_view_is_served_from_its_own_cell(tmp_path: Path) -> None:
    """While a sweep is extended, its folder holds the choice of what it was over before."""
    spec = spec_with(variants=("b0",), train_res=(64,), test_res=(96,), arms=("none", "fix"))
    before, after = plan_of(spec), plan_of(spec_with(spec, arms=("none", "bn", "fix")))
    store = Store(tmp_path)
    trunk = before.trunk(before.points[0], HYPER)
    cell = before.cell(trunk, 6, 96, 1.0)
    write_json(store.trunk(trunk.key) / "spec.json", trunk)
    write_json(store.cell(cell.key) / "spec.json", cell.spec)
    row = a_row(trunk=trunk.key, cell=cell.key)
    assert after.cell(trunk, 6, 96, 1.0).key != cell.key
    assert (
        served_as_swept(after, row, store).cell == cell == served_as_swept(before, row, store).cell
    )


def test_a_choice_answers_only_for_what_it_was_made_among(tmp_path: Path) -> None:
    outcome, location = outcome_of(ROWS), SweepLocation(out=tmp_path)
    leaderboard.write(tmp_path / "leaderboard.parquet", outcome.rows)
    record = a_record(samples=2)
    write_choice(tmp_path, outcome, record.identity)
    more = spec_with(samples=4)
    after = extended_record(record, more, identity(more, "d1"))
    for now in (record, after):  # on the way to more, and on the way back
        assert finished_outcome(now.spec, location, now, record.identity) == outcome
        assert finished_outcome(more, location, now, after.identity) is None
    written: Any = read_json(tmp_path / "choice.json")
    del written["identity"]  # as by a version that could not extend
    write_json(tmp_path / "choice.json", written)
    assert finished_outcome(record.spec, location, record, record.identity) == outcome
    assert finished_outcome(more, location, record, after.identity) is None
    assert finished_outcome(more, location, after, after.identity) is None
