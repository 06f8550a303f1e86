"""Choosing again from what a sweep's folder holds."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sweeps import measure_latency
from sweeps.select_best import main
from sweeps.selection import leaderboard
from sweeps.selection.leaderboard import Row
from tests.factories import CONDITIONS, a_record, a_row, a_served_latency
from tests.storing import S3Server
from tests.trainables.export.test_portable_formats import tiny
from trainables.errors import SweepError, UserError
from trainables.fixres.cell import PREDICTIONS, recorded_hits, write_predictions
from trainables.machine import cpu_name
from trainables.models import backbone
from trainables.profiling.latency import Conditions, Setting
from trainables.profiling.latency_file import LatencyFile, NetLatency, write_latency_file
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
    def measured(
        rows: list[Row], classes: int, store: Store, setting: Setting, _: object
    ) -> tuple[list[Row], Conditions]:
        assert (classes, setting.runtime, setting.threads) == (2, "torch", 3)
        return [replace(r, latency_ms=r.test_res / 10) for r in rows], CONDITIONS

    monkeypatch.setattr("sweeps.reselect.with_latencies", measured)
    how = ("--latency-runtime", "torch", "--latency-threads", "3")
    assert main(["--sweep", str(sweep), "--max-latency-ms", "7", *how]) == 0
    said = capsys.readouterr().out
    assert f"latency  median; {CONDITIONS}" in said and re.search(r"MB +ms *\n", said)
    assert "chosen   b0 64 -> 64 px, crop 1.0, arm fix" in said
    assert f"within 7 ms ({CONDITIONS})" in said
    assert main(["--sweep", str(sweep), "--latency", *how]) == 0
    said = capsys.readouterr().out
    assert re.search(r"MB +ms *\n", said) and "chosen   b0 64 -> 96 px, crop 1.0, arm fix" in said


@pytest.fixture
def measured_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latencies of both nets on another machine: only the smaller takes less than 2 ms."""
    nets = tuple(
        NetLatency(variant="b0", test_res=res, classes=2, latency=a_served_latency(ms).latency)
        for res, ms in ((64, 1.5), (96, 2.5))
    )
    elsewhere = replace(CONDITIONS, device="A small CPU")
    content = LatencyFile(conditions=elsewhere, measured="2026-01-01T00:00:00Z", nets=nets)
    path = tmp_path_factory.mktemp("elsewhere") / "latency.json"
    write_latency_file(path, content)
    return path


@pytest.mark.parametrize(("limit", "res"), [("2", 64), ("3", 96)])
def test_latencies_of_another_machine_choose_and_are_named(
    sweep: Path,
    measured_elsewhere: Path,
    limit: str,
    res: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = ("--latency", str(measured_elsewhere))
    before = {p: p.read_bytes() for p in sweep.rglob("*") if p.is_file()}
    assert main(["--sweep", str(sweep), *file, "--max-latency-ms", limit]) == 0
    said = capsys.readouterr().out
    machine = "ONNX Runtime 1.2.3, batch 1, 2 threads, float32, A small CPU"
    assert f"chosen   b0 64 -> {res} px, crop 1.0, arm fix" in said
    assert f"within {limit} ms ({machine})" in said
    assert f"latency median; {machine}" in " ".join(said.split())
    assert {p: p.read_bytes() for p in sweep.rglob("*") if p.is_file()} == before


def test_a_sweep_says_what_its_own_latencies_were_measured_with(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sweep / "leaderboard.parquet"
    rows = [replace(r, latency_ms=5.0) for r in leaderboard.read(path)]
    for latency, words in (
        (CONDITIONS, str(CONDITIONS)),
        (None, "PyTorch, uncompiled, batch 1, by an earlier version"),
    ):
        leaderboard.write(path, rows, latency)
        assert main(["--sweep", str(sweep)]) == 0
        assert f"latency  median; {words}" in capsys.readouterr().out


def test_candidates_go_to_the_machine_that_serves_and_their_latencies_come_back(
    sweep: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the three commands; the nets are few layers of their family's."""
    monkeypatch.setattr(backbone, "build", lambda _, classes: tiny(classes=classes))
    folder = tmp_path_factory.mktemp("serving")
    models, file = folder / "candidates", folder / "latency.json"
    assert main(["--sweep", str(sweep), "--export-candidates", str(models)]) == 0
    assert "2 nets, 2 classes" in " ".join(capsys.readouterr().out.split())
    assert sorted(p.name for p in models.iterdir()) == ["b0-64.onnx", "b0-96.onnx"]
    assert measure_latency.main([str(models), "--out", str(file), "--threads", "1"]) == 0
    assert main(["--sweep", str(sweep), "--latency", str(file), "--max-latency-ms", "1e6"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "chosen b0 64 -> 96 px" in said and f"1 thread, float32, {cpu_name()}" in said
    assert main(["--sweep", str(sweep), "--export-candidates", str(models)]) == 2
    assert "exists and is not empty: name a new folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--max-gmacs", "0.01"),
            "None of the 4 rows is within 0.01 GMACs: --max-gmacs 0.01 rules out 4",
        ),
        (("--max-gmacs", "-1"), "--max-gmacs -1.0 is out of bounds"),
        (("--latency-threads", "0"), "--latency-threads 0 is out of bounds"),
        (("--latency", "nowhere.json"), "--latency nowhere.json does not exist"),
        (("--latency", "a.json", "b.json"), "--latency a.json b.json: give one file"),
        (("--latency", "a.json", "--latency-batch", "2"), "--latency-batch 2 says how to measure"),
        (("--export-candidates", "s3://bucket/a"), "is a folder of this machine"),
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
    tracking = ("--tracking-uri", f"sqlite:///{sweep}/mlflow.db")
    assert main(["--sweep", at, "--write", str(sweep / target), *tracking]) == 2
    assert words in capsys.readouterr().err
    assert (sweep / "full" / "mine.txt").read_text() == "keep me"


def test_a_run_of_no_named_mlflow_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """MLflow would look into a database of its own, which it makes where the command is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["--sweep", "runs:/0123"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --sweep runs:/0123 is a run in MLflow, and it is not said in")
    assert "--tracking-uri" in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert main(["--sweep", "runs:/0123"]) == 2
    assert (
        f"cannot be read from MLflow at sqlite:///{tmp_path}/mlflow.db" in capsys.readouterr().err
    )
