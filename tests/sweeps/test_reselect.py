"""Another choice is made from a sweep's record, and its model written only where it may be."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from sweeps import reselect
from sweeps.planning.options.groups import ServingOptions
from sweeps.planning.options.latency_options import LatencyOptions
from sweeps.reselect import check_target, load_sweep, write_other_choice
from sweeps.selection import leaderboard
from sweeps.selection.choice import Choice
from sweeps.terminal.console import Terminal
from tests.factories import a_record, a_row, file_console
from trainables.errors import UserError

ROW = a_row()
RECORD = a_record()


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "sweep"
    folder.mkdir()
    leaderboard.write(folder / "leaderboard.parquet", [ROW])
    RECORD.write(folder)
    return folder


def test_a_model_may_be_new_or_replace_a_model(tmp_path: Path) -> None:
    check_target("OUT", tmp_path / "new")
    check_target("s3://bucket/out", tmp_path / "new")
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match="is no model's folder"):
        check_target("OUT", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").touch()
    check_target("OUT", tmp_path / "model")


def test_a_model_cannot_be_written_from_mlflow_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--sweep runs:/0123 is neither"):
        check_target("runs:/0123", tmp_path / "new")


@pytest.mark.parametrize("as_uri", [False, True])
def test_a_sweep_is_loaded_from_its_folder_or_a_uri(sweep: Path, as_uri: bool) -> None:
    with load_sweep(sweep.as_uri() if as_uri else str(sweep), None) as loaded:
        assert leaderboard.read(loaded.folder / "leaderboard.parquet") == [ROW]
        assert loaded.record == RECORD
        assert (loaded.folder == sweep) is not as_uri
        assert str(loaded.store.root).endswith(f"{sweep.name}/store")
    assert loaded.folder.exists() is not as_uri


@pytest.mark.parametrize("missing", ["spec.json", "leaderboard.parquet"])
def test_a_sweep_without_record_or_leaderboard_is_refused(sweep: Path, missing: str) -> None:
    (sweep / missing).unlink()
    with pytest.raises(UserError, match="holds no leaderboard yet"), load_sweep(str(sweep), None):
        pass


def test_other_images_than_the_sweeps_are_refused(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reselect, "check_not_pruned", lambda *_, **__: None)
    monkeypatch.setattr(
        reselect, "open_images", lambda spec, terminal: (SimpleNamespace(digest="another"), None)
    )
    choice = Choice(row=ROW, reason="It is the best.", optimism=0.0)
    target = tmp_path / "model"
    with (
        load_sweep(str(sweep), None) as loaded,
        pytest.raises(UserError, match="holds other images than the sweep saw"),
    ):
        write_other_choice(
            loaded,
            [ROW],
            choice,
            ServingOptions(),
            None,
            LatencyOptions(),
            target,
            Terminal(file_console()),
        )
    assert not target.exists()
