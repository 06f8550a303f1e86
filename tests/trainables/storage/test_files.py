import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from trainables.errors import UserError
from trainables.storage.artifact_store import Store
from trainables.storage.files import (
    append_line,
    make_writable,
    read_json,
    read_lines,
    read_tensors,
    replacing,
    replacing_folder,
    write_json,
    write_tensors,
    write_text,
)
from trainables.storage.hashing import content_hash


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
class Inner:
    sizes: tuple[int, ...]
    folder: Path


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner


def test_digest_sees_values_and_neither_their_order_nor_their_class():
    value = Outer("b0", Inner((224, 320), Path("x/y")))
    ordered = {"name": "b0", "inner": {"sizes": [224, 320], "folder": "x/y"}}
    reversed_ = {"inner": {"folder": "x/y", "sizes": [224, 320]}, "name": "b0"}
    assert content_hash(value) == content_hash(ordered) == content_hash(reversed_)
    assert len(content_hash(value)) == 16
    assert set(content_hash(value)) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, 2), (2, 1)),
        (("ab", "c"), ("a", "bc")),
        (([1], [2]), ([1, 2],)),
        ((0.1,), (0.1000000001,)),
        ((None,), ("None",)),
        (({"a": 1},), ({"a": 2},)),
        (({"a": 1},), ({"b": 1},)),
    ],
)
def test_digests_differ_where_values_do(one, other):
    assert content_hash(*one) != content_hash(*other)


def test_a_number_that_json_lacks_has_no_digest():
    with pytest.raises(ValueError, match="JSON"):
        content_hash(float("nan"))


def test_json_comes_back(tmp_path):
    path = tmp_path / "deep" / "value.json"
    assert read_json(path) is None
    write_json(path, Outer("ü", Inner((1,), Path("x"))))
    assert read_json(path) == {"name": "ü", "inner": {"sizes": [1], "folder": "x"}}
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


def test_every_kind_of_result_has_its_own_place(tmp_path):
    store = Store(tmp_path)
    places = [
        store.journal,
        store.weights("k"),
        store.trunk("k"),
        store.cell("k"),
        store.activations("k"),
        store.latency("k"),
        store.reading("k"),
    ]
    assert len(set(places)) == len(places)
    assert all(tmp_path in place.parents for place in places)


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
