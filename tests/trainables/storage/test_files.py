"""Files that are written whole or not at all, in a folder or in an object store."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.storing import S3Server
from trainables.errors import UserError
from trainables.storage.files import (
    Place,
    append_line,
    children,
    file_size,
    local_copy,
    make_writable,
    read_batch,
    read_json,
    read_lines,
    read_state,
    read_tensors,
    write_batch,
    write_json,
    write_state,
    write_tensors,
    write_text,
)
from trainables.storage.object_store import remote_path
from trainables.storage.replacing import replacing, replacing_folder


def test_replacing_leaves_the_old_file_and_nothing_else_when_the_block_fails(tmp_path):
    path = tmp_path / "result"
    path.write_text("old")
    with contextlib.suppress(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half of the ne")
        assert path.read_text() == "old"
        raise RuntimeError("killed")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result"]


def test_replacing_makes_folders_and_a_file_that_others_may_read(tmp_path):
    path = tmp_path / "a" / "b" / "result"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent  # a rename must not cross file systems
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in path.parent.iterdir()] == ["result"]


def test_replacing_leaves_a_reader_of_the_old_file_with_all_of_it(tmp_path):
    path = tmp_path / "result"
    path.write_text("old")
    with path.open() as reader:
        write_text(path, "new")
        assert reader.read() == "old"
    assert path.read_text() == "new"


def test_a_folder_is_replaced_whole_and_only_at_the_end(tmp_path):
    folder = tmp_path / "out" / "model"
    for content in ("first", "second"):
        with replacing_folder(folder) as fresh:
            assert fresh.parent == folder.parent  # a rename must not cross file systems
            assert not list(fresh.iterdir())
            (fresh / "code").mkdir(mode=0o700)
            (fresh / "code" / content).write_text(content)
            (fresh / "code" / content).chmod(0o600)
            assert not (folder / "code" / content).exists()
            assert folder.exists() == (content == "second")
        assert {p.name for p in folder.rglob("*")} == {"code", content}
        assert (folder / "code" / content).read_text() == content
    assert [p.name for p in folder.parent.iterdir()] == ["model"]
    modes = {p.name: p.stat().st_mode & 0o777 for p in [folder, *folder.rglob("*")]}
    assert modes == {"model": 0o755, "code": 0o755, "second": 0o644}


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_folder_whose_block_fails_leaves_what_was_there(tmp_path, there, error):
    folder = tmp_path / "model"
    if there:
        folder.mkdir()
        (folder / "old").write_text("old")

    def cut_short():
        with replacing_folder(folder) as fresh:
            (fresh / "new").write_text("half")
            raise error

    with pytest.raises(error):
        cut_short()
    assert [p.name for p in tmp_path.rglob("*")] == (["model", "old"] if there else [])


def test_a_folder_that_cannot_take_its_place_leaves_what_was_there(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old").write_text("old")
    rename = Path.rename

    def failing(self, target):
        if (self / "new").exists():
            raise OSError("stale handle")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="stale"), replacing_folder(folder) as fresh:
        (fresh / "new").write_text("new")
    assert [p.name for p in tmp_path.rglob("*")] == ["model", "old"]


@dataclass(frozen=True)
class Named:
    name: str
    sizes: tuple[int, ...]
    folder: Path


def test_json_comes_back(tmp_path):
    path = tmp_path / "deep" / "value.json"
    assert read_json(path) is None
    write_json(path, Named("ü", (1,), Path("x")))
    assert read_json(path) == {"name": "ü", "sizes": [1], "folder": "x"}
    assert json.loads(path.read_text(encoding="utf-8")) == read_json(path)


def test_text_is_written_as_utf8(tmp_path):
    write_text(tmp_path / "card.md", "größer ↗\n")
    assert (tmp_path / "card.md").read_bytes() == "größer ↗\n".encode()


def test_lines_survive_a_writer_killed_within_one(tmp_path):
    path = tmp_path / "logs" / "journal.jsonl"
    assert read_lines(path) == []
    append_line(path, {"n": 1, "text": "two\nlines \u2028 and \x85"})
    append_line(path, {"n": 2})
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'{"n": 3, "te')
    assert [line["n"] for line in read_lines(path)] == [1, 2]
    append_line(path, {"n": 4})
    append_line(path, {"n": 5})
    assert [line["n"] for line in read_lines(path)] == [1, 2, 4, 5]
    assert path.read_bytes().startswith(whole)
    assert read_lines(path)[0]["text"] == "two\nlines \u2028 and \x85"


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_line_cut_anywhere_harms_no_other(tmp_path, cut):
    path = tmp_path / "journal.jsonl"
    append_line(path, {"n": 1})  # 8 bytes with its newline
    append_line(path, {"n": 2})
    path.write_bytes(path.read_bytes()[:-cut])
    append_line(path, {"n": 3})
    kept = [line["n"] for line in read_lines(path)]
    assert kept == ([1, 2, 3] if cut == 1 else [1, 3])  # 1: only the newline is lost


def test_tensors_come_back_whatever_their_strides_and_types(tmp_path):
    base = torch.arange(24.0).reshape(2, 3, 4)
    image = torch.randn(2, 3, 5, 5)
    tensors = {
        "transposed": base.transpose(0, 2),
        "sliced": base[:, ::2],
        "expanded": torch.ones(3, 1).expand(3, 4),
        "channels_last": image.to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "count": torch.tensor(7),
        "half": torch.randn(4).half(),
    }
    assert not tensors["transposed"].is_contiguous()
    path = tmp_path / "state.safetensors"
    write_tensors(path, tensors)
    found = read_tensors(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_tensors_that_cannot_be_written_leave_the_old_ones(tmp_path):
    path = tmp_path / "state.safetensors"
    write_tensors(path, {"w": torch.ones(2)})
    same = torch.zeros(2)
    with pytest.raises(RuntimeError, match="share"):
        write_tensors(path, {"w": same, "v": same})
    assert torch.equal(read_tensors(path)["w"], torch.ones(2))
    assert len(list(tmp_path.iterdir())) == 1


# --- the same in a folder and in an object store ------------------------------------------------


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return tmp_path / "store"
    server: S3Server = request.getfixturevalue("s3")
    return remote_path(server.uri(f"tests/{tmp_path.name}/store"))


def test_what_is_written_is_read(root: Place) -> None:
    write_json(root / "a" / "value.json", {"x": [1, 2.5, None]})
    assert read_json(root / "a" / "value.json") == {"x": [1, 2.5, None]}
    tensors = {"w": torch.randn(3, 4), "n": torch.arange(5)}
    write_tensors(root / "t.safetensors", tensors)
    assert all(torch.equal(read_tensors(root / "t.safetensors")[k], v) for k, v in tensors.items())
    write_state(root / "state.pt", {"deep": {"w": tensors["w"]}, "epoch": 3})
    state = read_state(root / "state.pt")
    assert state is not None and state["epoch"] == 3
    assert torch.equal(state["deep"]["w"], tensors["w"])
    batch = pa.record_batch({"label": pa.array(np.arange(7))})
    write_batch(root / "b.arrow", batch)
    assert read_batch(root / "b.arrow").equals(batch)


def test_what_is_not_there_is_none(root: Place) -> None:
    assert read_json(root / "nope.json") is None
    assert read_state(root / "nope.pt") is None
    assert read_lines(root / "nope.jsonl") == []
    assert children(root / "nope") == []
    assert not (root / "nope.json").exists()
    (root / "nope.json").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        read_tensors(root / "nope.safetensors")


def test_lines_are_appended_and_a_cut_one_is_passed_over(root: Place) -> None:
    for i in range(3):
        append_line(root / "log.jsonl", {"i": i})
    assert read_lines(root / "log.jsonl") == [{"i": 0}, {"i": 1}, {"i": 2}]


def test_children_are_files_and_folders_sorted(root: Place) -> None:
    for name in ("b", "a"):
        write_json(root / "trunks" / name / "spec.json", {})
    write_json(root / "trunks" / "c.json", {})
    assert [child.name for child in children(root / "trunks")] == ["a", "b", "c.json"]
    assert file_size(root / "trunks" / "c.json") == 3
    assert not (root / "trunks" / "a").exists() or isinstance(root, Path)
    (root / "trunks" / "c.json").unlink()
    assert [child.name for child in children(root / "trunks")] == ["a", "b"]


def test_a_local_copy_bears_the_name_and_the_bytes(root: Place) -> None:
    write_tensors(root / "trunk.safetensors", {"w": torch.ones(3)})
    with local_copy(root / "trunk.safetensors") as copy:
        assert copy.name == "trunk.safetensors"
        assert torch.equal(read_tensors(copy)["w"], torch.ones(3))
    assert copy.exists() == isinstance(root, Path)


def test_make_writable_creates_the_folder_and_leaves_it_empty(tmp_path):
    folder = tmp_path / "a" / "b"
    make_writable(folder, "out")
    assert folder.is_dir()
    assert not list(folder.iterdir())


def test_make_writable_says_which_option_and_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"`out` .*file.* cannot be written to \(.+\): name"):
            make_writable(folder, "out")


def test_make_writable_refuses_a_name_that_no_result_could_hold(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(UserError, match=r"^`out` .*caf\\xe9 has a name that is not UTF-8: name an"):
        make_writable(folder, "out")
    assert not folder.exists()
