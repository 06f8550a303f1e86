"""OUT: which folders may be one, who may use it, and which sweep it holds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweeps.output.folder import (
    continue_record,
    find_folder,
    locked,
    read_matching_record,
    remove_unfinished,
    write_near_duplicates,
    write_rejected,
)
from sweeps.output.location import SweepLocation
from sweeps.planning.spec import identity
from tests.factories import a_record, is_one_sentence, spec_with
from trainables.data.image_set import Rejected
from trainables.errors import UserError
from trainables.near_duplicates.pairs import NearDuplicate, NearDuplicates

OPTIONS: dict[str, Any] = {"variants": ("b0", "b1"), "lr": (1e-3, 1e-2), "seed": 7, "keep": "front"}


@pytest.fixture(autouse=True)
def _off_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def refusal(**options: Any) -> str:
    with pytest.raises(UserError) as refused:
        find_folder(spec_with(**options))
    assert is_one_sentence(str(refused.value).replace(", ...)", ")"))
    return str(refused.value)


def test_a_folder_is_found_by_an_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_folder(spec_with(out=Path("new"))) == tmp_path / "new"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("names", [(), ("store",), (".lock", "store"), ("spec.json", "any.txt")])
def test_an_empty_folder_or_one_of_a_sweep_is_taken(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert find_folder(spec_with(out=tmp_path)) == tmp_path


@pytest.mark.parametrize("others", [("choice.json", "model"), ("mlflow.db", "mlartifacts")])
def test_a_sweep_that_has_lost_its_record_is_known_by_its_store(
    tmp_path: Path, others: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    for name in others:
        (tmp_path / name).touch()
    assert "holds other files" in refusal(out=tmp_path)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "journal.jsonl").touch()
    assert find_folder(spec_with(out=tmp_path)) == tmp_path
    assert read_matching_record(tmp_path, {}) is None
    assert ("spec.json is missing" in caplog.text) == ("choice.json" in others)
    (tmp_path / "thesis.tex").touch()
    assert "holds other files" in refusal(out=tmp_path)


def test_a_copy_is_kept_of_a_damaged_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "spec.json").write_text('{"spec": ')
    assert read_matching_record(tmp_path, {}) is None
    assert (tmp_path / "spec.json.damaged").read_text() == '{"spec": '
    assert "spec.json is damaged" in caplog.text and "written anew" in caplog.text


def test_a_folder_of_other_files_is_refused_and_one_is_named(tmp_path: Path) -> None:
    for name in ("store", "thesis.tex", "z.txt"):
        (tmp_path / name).touch()
    assert "holds other files (thesis.tex, ...)" in refusal(out=tmp_path)
    assert "is a file: name a folder" in refusal(out=tmp_path / "z.txt")


def test_on_a_cluster_a_relative_folder_needs_results_to_be_kept_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    relative: dict[str, Any] = {"out": Path("out")}
    assert "--out out lies in the job's working copy" in refusal(**relative)
    stored = relative | {"storage": "s3://bucket/sweep"}
    assert "working copy" in refusal(**stored)
    assert find_folder(spec_with(**stored, tracking_uri="http://mlflow")) == tmp_path / "out"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow")
    assert find_folder(spec_with(**stored)) == tmp_path / "out"
    assert find_folder(spec_with(out=tmp_path)) == tmp_path


def test_a_folder_has_one_driver_at_a_time(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(UserError, match="in use by another running sweep"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("is_new", [True, False])
def test_a_refused_sweep_leaves_nothing_of_its_own(tmp_path: Path, is_new: bool) -> None:
    out = tmp_path / "out"
    (out / "store").mkdir(parents=True)
    for name in ("spec.json", "rejected.tsv", "near_duplicates.tsv", "store/journal.jsonl"):
        (out / name).touch()
    remove_unfinished(out, is_new)
    left = {path.name for path in out.rglob("*")} if out.exists() else set()
    assert left == (set() if is_new else {"store", "journal.jsonl"})
    assert out.exists() is not is_new


def test_rejected_files_are_listed_if_there_are_any(tmp_path: Path) -> None:
    images: Any = SimpleNamespace(rejected=())
    write_rejected(tmp_path, images)
    assert not list(tmp_path.iterdir())
    images.rejected = (Rejected(path="a.jpg", reason="truncated"),)
    write_rejected(tmp_path, images)
    assert (tmp_path / "rejected.tsv").read_text() == "path\treason\na.jpg\ttruncated\n"


def test_near_duplicates_are_listed_if_there_are_any(tmp_path: Path) -> None:
    pair = NearDuplicate("val", "val/a/1.jpg", "train", "train/a/2.jpg", 7)
    write_near_duplicates(tmp_path, NearDuplicates(pairs=(pair,), sizes={"train": 9, "val": 9}))
    assert (tmp_path / "near_duplicates.tsv").read_text().splitlines()[1] == (
        "val\tval/a/1.jpg\ttrain\ttrain/a/2.jpg\t7"
    )
    write_near_duplicates(tmp_path, NearDuplicates())  # of an extra set that is no longer given
    assert not list(tmp_path.iterdir())


def test_the_same_sweep_is_recognised_and_another_is_refused(tmp_path: Path) -> None:
    record = a_record("s3://bucket/sweep", **OPTIONS)
    same = identity(spec_with(**{**OPTIONS, "keep": "all", "concurrency": 3}), "d1")
    assert read_matching_record(tmp_path, same) is None
    record.write(tmp_path)
    assert read_matching_record(tmp_path, same) == record
    more = identity(spec_with(**OPTIONS, samples=9, test_res=(64, 96)), "d1")
    assert read_matching_record(tmp_path, more) == record
    more_and_other = identity(spec_with(**{**OPTIONS, "seed": 8}, samples=9), "d1")
    with pytest.raises(UserError, match=r"holds another sweep \(--seed was 7, now 8\)"):
        read_matching_record(tmp_path, more_and_other)
    with pytest.raises(UserError, match=r"holds another sweep \(--seed was 7, now 8\)"):
        read_matching_record(tmp_path, identity(spec_with(**{**OPTIONS, "seed": 8}), "d1"))
    with pytest.raises(UserError, match="the images were d1, now d2"):
        read_matching_record(tmp_path, {**same, "images": "d2"})


def test_a_command_that_extends_a_sweep_is_recorded_and_said_once(tmp_path: Path) -> None:
    record, said = a_record(**OPTIONS), list[str]()
    record.write(tmp_path)
    location = SweepLocation(out=tmp_path)
    for _ in range(2):
        spec = spec_with(**OPTIONS, samples=9)
        record = continue_record(record, spec, identity(spec, "d1"), location, said.append)
    assert said == [f"extends  the sweep in {tmp_path}: --samples was 4, now 9"]
    assert len(record.extensions) == 1
    assert read_matching_record(tmp_path, identity(spec, "d1")) == record
