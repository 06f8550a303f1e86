"""Extra test sets, with the labels of the trained classes."""

import hashlib
import io
import pickle
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from trainables.data import extra_test_sets
from trainables.data.decode import prepare
from trainables.data.options import ReadOptions
from trainables.errors import UserError

open_extra_test_set = partial(extra_test_sets.open_extra_test_set, whites={})

TRAINED = ("ant", "bee", "cat", "dog")


def png(number, height=6, width=8):
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def folder(root, classes=("dog", "bee"), per_class=4):
    """Images of differing sizes, each with bytes of its own."""
    for name in classes:
        for number in range(per_class):
            size = {"height": 5 + number, "width": 9 - number}
            write(root / name / f"{number}.png", png(100 * ord(name[0]) + number, **size))
    return root


def content(found):
    pixels = [found.images[index].tobytes() for index in range(len(found.images))]
    return sorted(zip(pixels, found.images.labels.tolist(), strict=True))


def as_pillow_decodes(root, classes=TRAINED):
    return sorted(
        (Image.open(file).convert("RGB").tobytes(), classes.index(file.parent.name))
        for file in root.rglob("*.png")
    )


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.mark.parametrize("classes", [("dog", "bee"), ("cat",), TRAINED])
def test_some_of_the_classes_in_the_trained_order(tmp_path, cache, classes):
    data = folder(tmp_path / "data", classes)
    calls = []
    found = open_extra_test_set(
        "v2", data, cache, TRAINED, ReadOptions(), lambda *call: calls.append(call)
    )
    total = 4 * len(classes)
    assert calls == [(count, total) for count in range(1, total + 1)]
    assert content(found) == as_pillow_decodes(data)
    assert found.present == tuple(i for i, name in enumerate(TRAINED) if name in classes)
    assert (found.name, found.rejected, found.notes) == ("v2", (), ())
    assert len(found.images) == total
    for index, size in enumerate(found.images.sizes.tolist()):
        assert found.images[index].shape == (*size, 3)
        assert not found.images[index].flags.writeable


def test_labels_follow_the_trained_order(tmp_path, cache):
    data = folder(tmp_path / "data")
    turned = TRAINED[::-1]
    one = open_extra_test_set("v2", data, cache, TRAINED, ReadOptions())
    other = open_extra_test_set("v2", data, cache, turned, ReadOptions())
    assert content(other) == as_pillow_decodes(data, turned)
    assert other.present == (0, 2)
    assert other.digest != one.digest


@pytest.mark.parametrize("splits", [("train", "valid", "test"), ("test",), ("val",)])
def test_split_folders_are_put_together(tmp_path, cache, splits):
    whole, data = folder(tmp_path / "whole"), tmp_path / "data"
    for number, file in enumerate(sorted(whole.rglob("*.png"))):
        split = splits[number % len(splits)]
        write(data / split / file.relative_to(whole), file.read_bytes())
    found = open_extra_test_set("v2", data, cache, TRAINED, ReadOptions())
    assert content(found) == as_pillow_decodes(data)
    assert found.digest == open_extra_test_set("v2", whole, cache, TRAINED, ReadOptions()).digest


def test_a_table_equals_the_folder(tmp_path, cache):
    data = folder(tmp_path / "data")
    files = sorted(data.rglob("*.png"))
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    rows = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    labels = [file.parent.name for file in files]
    pq.write_table(
        pa.table({"image": pa.array(rows, kind), "label": labels}), tmp_path / "test.parquet"
    )
    from_table = open_extra_test_set("v2", tmp_path / "test.parquet", cache, TRAINED, ReadOptions())
    from_folder = open_extra_test_set("v2", data, cache, TRAINED, ReadOptions())
    assert content(from_table) == as_pillow_decodes(data)
    assert from_table.digest == from_folder.digest
    with pytest.raises(UserError, match=r"has 1 class\(es\) that were not trained on, as dog"):
        open_extra_test_set("v2", tmp_path / "test.parquet", cache, TRAINED[:3], ReadOptions())


def test_groups_are_counted_as_far_as_a_set_has_them(tmp_path, cache):
    data = folder(tmp_path / "data")
    files = sorted(data.rglob("*.png"))
    table = {
        "image": [file.read_bytes() for file in files],
        "label": [file.parent.name for file in files],
        "person": ["x", "x", "x", None, "y", "y", "z", "z"],
    }
    pq.write_table(pa.table(table), tmp_path / "test.parquet")

    def groups(where, group_by):
        return open_extra_test_set(
            "v2", where, cache, TRAINED, ReadOptions(group_by=group_by)
        ).groups

    assert groups(tmp_path / "test.parquet", "person") == {"x": 3, "y": 2, "z": 2}
    assert groups(data, r"/(\d)\.") == {str(number): 2 for number in range(4)}
    # What groups the trained images need not be there: a column, a pattern that matches or is one.
    for where, group_by in (
        (tmp_path / "test.parquet", "patient"),
        (data, "person"),
        (data, "(q+)_"),
        (data, "("),
        (data, None),
    ):
        assert groups(where, group_by) == {}


@pytest.mark.parametrize(
    "column",
    [pa.nulls(4), pa.array([0.5] * 4), pa.array([b"x"] * 4), pa.array([{"a": 1}] * 4), None],
    ids=["null", "double", "binary", "struct", "missing"],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_tables_without_a_column_of_groups_stand_beside_others(tmp_path, cache, column, is_first):
    files = sorted(folder(tmp_path / "data").rglob("*.png"))

    def write(name, files, person):
        columns = {
            "image": [file.read_bytes() for file in files],
            "label": [file.parent.name for file in files],
        }
        if person is not None:
            columns["person"] = person
        (tmp_path / "tables").mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), tmp_path / "tables" / name)

    odd, sound = ("a.parquet", "b.parquet") if is_first else ("b.parquet", "a.parquet")
    write(odd, files[:4], column)
    write(sound, files[4:], pa.array(["x", "x", "y", None]))
    found = open_extra_test_set(
        "v2", tmp_path / "tables", cache, TRAINED, ReadOptions(group_by="person")
    )
    assert found.groups == {"x": 2, "y": 1} and len(found.images) == 8
    [note] = [note for note in found.notes if "person" in note]
    assert note.startswith("1 table(s), as ") and odd in note
    assert "have no column person of integers or text" in note


def test_many_tables_without_groups_are_told_in_one_note(tmp_path, cache):
    files = sorted(folder(tmp_path / "data").rglob("*.png"))
    (tmp_path / "tables").mkdir()
    for number, file in enumerate(files):
        table = {"image": [file.read_bytes()], "label": [file.parent.name]}
        if number in (2, 5):
            table["person"] = ["x"]
        pq.write_table(pa.table(table), tmp_path / "tables" / f"{number}.parquet")

    def open_with(group_by):
        options = ReadOptions(group_by=group_by)
        return open_extra_test_set("v2", tmp_path / "tables", cache, TRAINED, options)

    found, told = open_with("person"), "6 table(s), as "
    assert found.groups == {"x": 2}
    assert sum(note.startswith(told) for note in found.notes) == 1
    # Where no table has it, and where nothing is grouped, nothing is left out.
    for group_by in ("patient", None):
        assert not any("column" in note for note in open_with(group_by).notes)


def test_second_time_reads_no_image(tmp_path, cache, monkeypatch):
    data = folder(tmp_path / "data")
    first = open_extra_test_set("v2", data, cache, TRAINED, ReadOptions())

    def refuse(*_):
        raise AssertionError("an image was read")

    monkeypatch.setattr("trainables.data.decode_pool._read", refuse)
    monkeypatch.setattr("trainables.data.pixels.to_rgb", refuse)
    # The sweep's seed and shares decide nothing here, nor does what the set is called.
    options = ReadOptions(seed=7, val_share=0.3)
    again = open_extra_test_set("matched", data, cache, TRAINED, options)
    assert (again.name, again.digest, again.present) == ("matched", first.digest, first.present)
    assert content(again) == content(first)
    with pytest.raises(AssertionError, match="an image was read"):
        open_extra_test_set("v2", data, cache, TRAINED, ReadOptions(cache_side=4))


def test_the_same_folder_may_be_a_data_set_too(tmp_path, cache):
    data = folder(tmp_path / "data", TRAINED)
    further = open_extra_test_set("own", data, cache, TRAINED, ReadOptions())
    trained = prepare(data, cache, ReadOptions())
    assert trained.digest != further.digest
    assert sum(len(trained.split(name)) for name in ("train", "val", "test")) == 16
    assert len(open_extra_test_set("own", data, cache, TRAINED, ReadOptions()).images) == 16


def test_the_layout_of_the_trained_images_is_not_forced_on_another_set(tmp_path, cache):
    data = folder(tmp_path / "data")
    images = [file.read_bytes() for file in sorted(data.rglob("*.png"))]
    labels = [file.parent.name for file in sorted(data.rglob("*.png"))]
    (tmp_path / "table").mkdir()
    pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "table/x.parquet")
    tables, folders = ReadOptions(layout="tables"), ReadOptions(layout="folders")
    one = open_extra_test_set("v2", data, cache, TRAINED, tables)
    other = open_extra_test_set("v2", tmp_path / "table", cache, TRAINED, folders)
    assert content(one) == content(other) == as_pillow_decodes(data)


def test_folders_in_the_folder_of_a_trained_class_are_of_that_class(tmp_path, cache):
    write(tmp_path / "data/dog/beagle/1.png", png(1))
    write(tmp_path / "data/dog/poodle/2.png", png(2))
    found = open_extra_test_set("v2", tmp_path / "data", cache, TRAINED, ReadOptions())
    assert found.images.labels.tolist() == [3, 3]


def test_the_hashes_of_a_set_are_those_of_its_files(tmp_path, cache):
    data = folder(tmp_path / "data")
    found = open_extra_test_set("v2", data, cache, TRAINED, ReadOptions())
    files = {hashlib.sha256(file.read_bytes()).digest() for file in data.rglob("*.png")}
    assert found.images.hashes() == files and len(files) == 8


def test_goes_to_another_process_as_a_path(tmp_path, cache):
    found = open_extra_test_set("v2", folder(tmp_path / "data"), cache, TRAINED, ReadOptions())
    told = pickle.dumps(found)
    assert len(told) < 2000
    assert content(pickle.loads(told)) == content(found)


def test_a_set_that_was_read_makes_room_for_the_next(tmp_path, cache):
    """Each fits beside nothing else."""
    first = open_extra_test_set("v2", folder(tmp_path / "a"), cache, TRAINED, ReadOptions())
    size = sum(file.stat().st_size for file in first.images._opened[0].iterdir())
    bounded = ReadOptions(cache_gb=(size + 100) / 1e9)
    other = folder(tmp_path / "b", ("ant", "cat"))
    with pytest.raises(UserError, match="`cache_gb`"):
        open_extra_test_set("sketch", other, cache, TRAINED, bounded)
    del first
    second = open_extra_test_set("sketch", other, cache, TRAINED, bounded)
    assert content(second) == as_pillow_decodes(other)
    assert len(list(cache.glob("?" * 64))) == 1


def test_unknown_classes_are_counted_and_one_is_named(tmp_path, cache):
    data = folder(tmp_path / "data", ("0", "1", "bee"))
    with pytest.raises(UserError) as caught:
        open_extra_test_set("v2", data, cache, TRAINED, ReadOptions())
    assert str(caught.value) == (
        f"{data} has 2 class(es) that were not trained on, as 0: class folders and labels must bear"
        " the names of the trained classes, as ant."
    )


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_a_splits_name_is_refused(tmp_path, cache, name):
    with pytest.raises(UserError, match=f"cannot be called {name}"):
        open_extra_test_set(name, folder(tmp_path / "data"), cache, TRAINED, ReadOptions())


def test_nothing_to_read_is_refused(tmp_path, cache):
    data = tmp_path / "data"
    with pytest.raises(UserError, match=r"data does not exist"):
        open_extra_test_set("v2", data, cache, TRAINED, ReadOptions())
    write(data / "1.png", png(1))
    with pytest.raises(UserError, match=r"data holds no class folders: put the images"):
        open_extra_test_set("v2", data, cache, TRAINED, ReadOptions())
    (data / "ant").mkdir()
    with pytest.raises(UserError, match=r"ant is empty: add images"):
        open_extra_test_set("v2", data, cache, TRAINED, ReadOptions())
    write(data / "ant" / "1.png", b"no image")
    with pytest.raises(UserError, match=r"^\S*data has no readable image: add some\.$"):
        open_extra_test_set("v2", data, cache, TRAINED, ReadOptions(max_corrupt=1))
    assert not list(cache.glob("tmp-*"))


def test_unreadable_files_are_tolerated_as_in_the_data(tmp_path, cache):
    data = folder(tmp_path / "data", ("dog", "bee"))
    bad = write(data / "cat" / "0.png", png(7)[:60])
    allowed = ReadOptions(max_corrupt=0.2)
    found = open_extra_test_set("v2", data, cache, TRAINED, allowed)
    assert [one.path for one in found.rejected] == ["cat/0.png"]
    assert found.present == (1, 3)  # no readable cat
    message = r"data has 1 unreadable of 9 files \(11\.11%, allowed 1\.00%\), as cat/0\.png "
    for _ in range(2):  # from the cache too
        with pytest.raises(UserError, match=message):
            open_extra_test_set("v2", data, cache, TRAINED, ReadOptions())
    bad.unlink()
    write(data / "cat" / "0.png", png(7))
    assert open_extra_test_set("v2", data, cache, TRAINED, ReadOptions()).present == (1, 2, 3)
