"""Plain values of a state are read without its tensors, and nothing in it is executed."""

from __future__ import annotations

import io
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.storing import S3Server
from trainables.storage.damage import DamagedFileError
from trainables.storage.files import read_state, write_state
from trainables.storage.object_store import remote_path
from trainables.storage.state_values import read_values

REPORTS = [{"epoch": n, "val": {"32": {"top1": 0.5}}, "loss": None} for n in range(3)]


@pytest.fixture
def state() -> dict[str, Any]:
    """What a training saves: weights, moments and plain values."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 9), torch.nn.BatchNorm2d(64))
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.zeros(2, 3, 9, 9)).sum().backward()
    optimizer.step()
    weights = {"model": net.state_dict(), "optimizer": optimizer.state_dict()}
    return {**weights, "reports": REPORTS, "progress": None, "steps": 3}


@pytest.fixture
def path(tmp_path: Path, state: dict[str, Any]) -> Path:
    write_state(tmp_path / "state.pt", state)
    return tmp_path / "state.pt"


def test_plain_values_are_those_of_the_whole_state(path: Path) -> None:
    values, whole = read_values(path), read_state(path)
    assert values is not None and whole is not None and values.keys() == whole.keys()
    for name in ("reports", "progress", "steps"):
        assert values[name] == whole[name]


def test_the_bytes_of_the_tensors_are_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size, taken = path.stat().st_size, []

    class Counting(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            content: bytes = super().read(-1 if size is None else size)
            taken.append(len(content))
            return content

    monkeypatch.setattr(Path, "open", lambda self, mode: Counting(self, mode))
    assert read_values(path) is not None
    assert 0 < sum(taken) < size / 10


def test_of_an_object_in_a_store_the_same_is_read(path: Path, tmp_path: Path, s3: S3Server) -> None:
    remote = remote_path(s3.uri(f"tests/{tmp_path.name}/state.pt"))
    assert read_values(remote) is None
    remote.upload(path)
    values = read_values(remote)
    assert values is not None and values["reports"] == REPORTS


def test_nothing_that_a_file_names_is_called(tmp_path: Path) -> None:
    class Calls:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "called",)

    with zipfile.ZipFile(tmp_path / "state.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"reports": [], "x": Calls()}))
    values = read_values(tmp_path / "state.pt")
    assert values is not None and values["reports"] == []
    assert not (tmp_path / "called").exists()


def test_a_file_that_is_not_there_is_none_and_one_of_something_else_is_damaged(
    tmp_path: Path,
) -> None:
    assert read_values(tmp_path / "state.pt") is None
    with zipfile.ZipFile(tmp_path / "other", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps([1]))
    with pytest.raises(DamagedFileError, match="it is no state"):
        read_values(tmp_path / "other")


def test_a_flipped_bit_is_noticed_where_it_is_in_what_is_read(tmp_path: Path) -> None:
    path, rng = tmp_path / "state.pt", random.Random(0)
    write_state(path, {"model": {"w": torch.ones(9)}, "reports": REPORTS})
    content, noticed = path.read_bytes(), 0
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            values = read_values(path)
        except DamagedFileError:
            noticed += 1
        else:  # a tensor, padding, or a field that nobody reads
            assert values is not None and values["reports"] == REPORTS
    assert noticed > len(pickle.dumps(REPORTS))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_state_cut_short_is_damaged(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DamagedFileError):
        read_values(path)
