"""Choosing again from what a sweep's folder holds."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sweeps.select_best import main
from sweeps.selection import leaderboard
from sweeps.selection.leaderboard import Row
from tests.factories import a_record, a_row
from tests.storing import S3Server
from tests.waiting import HANG_S
from trainables.errors import SweepError, UserError
from trainables.fixres.cell import PREDICTIONS, recorded_hits, write_predictions
from trainables.storage.artifact_store import Store
from trainables.storage.object_store import remote_path

N = 100
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Four rows of two cells, and what each predicts: hits first, as if the images were sorted."""
    store, rows = Store(tmp_path / "store"), []
    for res, gmacs, by_arm in (
        (64, 0.1, {"none": 50, "fix": 70}),
        (96, 0.4, {"none": 75, "fix": 90}),
    ):
        labels = torch.zeros(N, dtype=torch.int64)
        predicted = {arm: (torch.arange(N) >= hits).long() for arm, hits in by_arm.items()}
        rows += [
            a_row(hits, N, arm=arm, test_res=res, gmacs=gmacs, memory_mb=res / 4, cell=f"c{res}")
            for arm, hits in by_arm.items()
        ]
        write_predictions(store.cell(f"c{res}") / PREDICTIONS, labels, predicted)
    leaderboard.write(tmp_path / "leaderboard.parquet", [*rows, a_row(99, N, split="test")])
    a_record().write(tmp_path)
    return tmp_path


def test_hits_come_back_from_the_store(sweep: Path) -> None:
    assert recorded_hits(Store(sweep / "store"), "c64", "fix").sum() == 70


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ((), "b0 64 -> 96 px, crop 1.0, arm fix (90.0 %"),
        (("--max-gmacs", "0.2"), "b0 64 -> 64 px, crop 1.0, arm fix (70.0 %"),
        (("--max-memory-mb", "20"), "b0 64 -> 64 px, crop 1.0, arm fix (70.0 %"),
        (("--max-gmacs", "0.5", "--min-top1", "0.8"), "b0 64 -> 96 px, crop 1.0, arm fix (90.0 %"),
    ],
)
def test_other_limits_choose_otherwise(
    sweep: Path, options: tuple[str, ...], chosen: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.read_bytes() for p in sweep.rglob("*") if p.is_file()}
    assert main(["--sweep", str(sweep), *options]) == 0
    said = capsys.readouterr().out
    assert f"chosen   {chosen}, n={N})" in said and "Pareto fronts" in said
    assert re.search(r"GMACs +M params +MB *\n", said)
    assert {p: p.read_bytes() for p in sweep.rglob("*") if p.is_file()} == before


def test_another_metric_decides_from_what_was_predicted(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The leaderboard has no metrics by class, as that of an earlier version."""
    assert main(["--sweep", str(sweep), "--metric", "macro_f1"]) == 0
    said = capsys.readouterr().out
    # All labels are one class, of which 90 images are found: F1 is 2 * 90 / (100 + 90).
    assert (
        "b0 64 -> 96 px, crop 1.0, arm fix (94.7 %, n=100) is the best val macro-F1 of 4 rows"
        in said
    )
    assert "Pareto fronts, macro-F1 on val" in said and "top-1 %" in said
    assert "flatters its own macro-F1" in said


def test_a_limit_on_latency_is_measured(
    sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(rows: list[Row], classes: int, store: Store) -> list[Row]:
        assert classes == 2
        return [replace(r, latency_ms=r.test_res / 10) for r in rows]

    monkeypatch.setattr("sweeps.selection.row_latency.with_latencies", measured)
    assert main(["--sweep", str(sweep), "--max-latency-ms", "7"]) == 0
    said = capsys.readouterr().out
    assert "latency  one image, median, on" in said and re.search(r"MB +ms *\n", said)
    assert "chosen   b0 64 -> 64 px, crop 1.0, arm fix" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--max-gmacs", "0.01"),
            "None of the 4 rows is within 0.01 GMACs: --max-gmacs 0.01 rules out 4",
        ),
        (("--max-gmacs", "-1"), "--max-gmacs -1.0 is out of bounds"),
    ],
)
def test_bad_limits_are_one_sentence(
    sweep: Path, options: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--sweep", str(sweep), *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and words in said and said.count("\n") == 1


def test_a_folder_without_a_leaderboard_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--sweep", str(tmp_path)]) == 2
    assert "holds no leaderboard yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code", "shown"),
    [
        (UserError("`variant` b9: give a smaller `cache_side`."), 2, "error: --variants b9: "),
        (SweepError("test at a lower `test_res`."), 1, "failed: test at a lower --test-res."),
    ],
)
def test_errors_of_the_core_name_options(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: Exception,
    code: int,
    shown: str,
) -> None:
    def load_sweep(*_: object) -> None:
        raise raised

    monkeypatch.setattr("sweeps.reselect.load_sweep", load_sweep)
    assert main(["--sweep", "out"]) == code
    said = capsys.readouterr().err
    assert said.startswith(shown) and "`" not in said


def test_a_copy_in_an_object_store_does_as_well(
    sweep: Path, s3: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = s3.uri(f"tests/{sweep.name}/out")
    for file in (path for path in sweep.rglob("*") if path.is_file()):
        (remote_path(uri) / file.relative_to(sweep).as_posix()).upload(file)
    for at in (uri, sweep.as_uri()):
        assert main(["--sweep", at, "--max-gmacs", "0.2"]) == 0
        assert "chosen   b0 64 -> 64 px, crop 1.0, arm fix" in capsys.readouterr().out
    assert main(["--sweep", f"{uri}/nothing"]) == 2
    assert "holds no leaderboard yet" in capsys.readouterr().err
    assert main(["--sweep", "nowhere://bucket/prefix"]) == 2
    assert "nowhere://bucket/prefix is in no store that is known" in capsys.readouterr().err


def test_a_sweep_with_its_store_elsewhere_finds_it(
    sweep: Path, s3: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = s3.uri(f"tests/{sweep.name}/elsewhere")
    for file in (path for path in (sweep / "store").rglob("*") if path.is_file()):
        (remote_path(uri) / file.relative_to(sweep).as_posix()).upload(file)
    shutil.rmtree(sweep / "store")
    a_record(uri).write(sweep)
    assert main(["--sweep", str(sweep), "--max-gmacs", "0.2"]) == 0
    assert "chosen   b0 64 -> 64 px, crop 1.0, arm fix" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sweep_at", "target", "words"),
    [
        ("runs:/0123", "model", "--write needs the sweep's folder"),
        ("OUT", "full", "exists and is no model's folder"),
    ],
)
def test_a_model_is_written_only_where_it_can_be(
    sweep: Path,
    sweep_at: str,
    target: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (sweep / "full").mkdir()
    (sweep / "full" / "mine.txt").write_text("keep me")
    at = str(sweep) if sweep_at == "OUT" else sweep_at
    assert main(["--sweep", at, "--write", str(sweep / target)]) == 2
    assert words in capsys.readouterr().err
    assert (sweep / "full" / "mine.txt").read_text() == "keep me"


def test_help_may_be_cut_short_by_its_reader() -> None:
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, str(ROOT / "sweeps" / "select_best.py"), "--help"]
    done = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE, timeout=HANG_S)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")
