"""A sweep whose files are damaged says so, and makes again what can be made again."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeps.scheduling import settled_cells
from tests.factories import spec_with
from tests.fake_sweep import FakeSweep, contents
from trainables.errors import SweepError, UserError
from trainables.storage.files import read_json

pytestmark = pytest.mark.slow  # all of them together


def halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def scramble(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(max(1, path.stat().st_size)))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "halved": halve,
    "emptied": lambda path: path.write_bytes(b""),
    "random bytes": scramble,
    "deleted": Path.unlink,
}
# Every kind of file of OUT by a pattern, with the sweeps that read it: finished or unfinished ones.
KINDS = {
    "spec.json": (True, False),
    "choice.json": (True,),
    "leaderboard.parquet": (True,),
    "report.html": (True,),
    "figures/heatmap.png": (True,),
    "model/model.safetensors": (True,),
    "store/journal.jsonl": (False,),
    "store/forecast.json": (False,),
    "store/trunks/*/spec.json": (False,),
    "store/trunks/*/result.json": (False,),
    "store/trunks/*/trunk.safetensors": (False,),
    "store/cells/*/rows.json": (False,),
    "store/cells/*/predictions.arrow": (False,),
    "store/cells/*/delta-bn.safetensors": (False,),
}
# spec.json: that of a cell; logits: by the calibration, which the stand-ins leave out.
NOT_READ = {".lock", "README.md", "spec.json", "spending.jsonl", "status.json"} | {
    "logits-none.arrow",
    "logits-bn.arrow",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished sweep."""
    out = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        FakeSweep(out, patch).run()
    return out


def test_the_same_command_again_makes_nothing(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished, tmp_path / "out")
    sweep = FakeSweep(tmp_path / "out", monkeypatch)
    sweep.run()
    assert not sweep.made
    assert contents(finished) == contents(tmp_path / "out")
    covered = {path for kind in KINDS for path in finished.glob(kind)}
    others = {path for path in finished.rglob("*") if path.is_file()} - covered
    assert {path.name for path in others} == NOT_READ


@pytest.mark.parametrize(
    ("kind", "is_finished"), [(kind, state) for kind, states in KINDS.items() for state in states]
)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_made_again(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    damage: str,
    is_finished: bool,
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    if not is_finished:
        (out / "choice.json").unlink()
    for path in list(out.glob(kind)):
        DAMAGES[damage](path)
    said = FakeSweep(out, monkeypatch).run() + caplog.text
    before, after = contents(finished), contents(out)
    choice: Any = read_json(out / "choice.json")
    served = choice["chosen"]["trunk"]  # no other's weights are read
    for name in before.keys() - {"spec.json", "choice.json", "store/journal.jsonl"}:
        is_read = "trunk.safetensors" not in name or served in name
        if is_read and not name.startswith("store/cells/"):
            assert after[name] == before[name], name
    assert damage == "deleted" or Path(kind).name.replace("*", "") in said


def test_what_cannot_be_made_again_ends_in_a_sentence(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "choice.json").unlink()
    sweep = FakeSweep(out, monkeypatch)

    def spoil(*_: object, **__: object) -> None:
        for path in out.glob("store/cells/*/predictions.arrow"):
            scramble(path)

    monkeypatch.setattr(settled_cells, "check_trunks", spoil)  # a disk that spoils what it is given
    with pytest.raises(SweepError, match=r"predictions.arrow is damaged .*: delete it"):
        sweep.run()


def test_the_store_of_another_sweep_is_refused_before_anything_is_written(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished / "store", out / "store")
    sweep = FakeSweep(out, monkeypatch)
    sweep.spec = spec_with(sweep.spec, seed=9)
    before = contents(out)
    with pytest.raises(UserError, match=r"journal.jsonl is of another sweep \(none of its 4"):
        sweep.run()
    assert contents(out) == before
