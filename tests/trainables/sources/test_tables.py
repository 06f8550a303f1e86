"""Tables of images: their rows as items, their classes and their splits."""

import io
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from trainables.data.decode import prepare
from trainables.data.options import ReadOptions
from trainables.errors import UserError
from trainables.sources.folders import scan
from trainables.sources.tables import extra_table_source, table_source

SPLITS = ("train", "val", "test")
IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def png(number):
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def hub_table(numbers, labels, names=None):
    """As the Hugging Face hub lays images out; names go into the schema's metadata."""
    rows = [{"bytes": png(number), "path": f"{number}.png"} for number in numbers]
    table = pa.table({"image": pa.array(rows, IMAGE), "label": pa.array(labels, pa.int64())})
    if names is None:
        return table
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    return table.replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )


def write(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=7)
        return
    make = pa.ipc.new_stream if "stream" in path.name else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as file, make(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


def content(found):
    return sorted(
        (image.tobytes(), name, int(label))
        for name in SPLITS
        for image, label in zip(found.split(name), found.split(name).labels, strict=True)
    )


@pytest.fixture
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_hub_layout_equals_the_folder(tmp_path):
    folder, hub = tmp_path / "folder", tmp_path / "hub"
    for split, start in (("train", 0), ("validation", 100), ("test", 200)):
        numbers = range(start, start + 90)
        for number in numbers:
            file = folder / split / ("ant", "bee", "cat")[number % 3] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(number))
        for part in range(2):
            some = numbers[part::2]
            labels = [number % 3 for number in some]
            table = hub_table(some, labels, names=["ant", "bee", "cat"])
            write(hub / "data" / f"{split}-0000{part}-of-00002.parquet", table)
    (hub / "README.md").touch()
    from_folder = prepare(folder, tmp_path / "a", ReadOptions())
    from_hub = prepare(hub, tmp_path / "b", ReadOptions())
    assert from_hub.classes == ("ant", "bee", "cat")
    assert from_hub.digest == from_folder.digest
    assert content(from_hub) == content(from_folder)
    assert from_hub.notes == ()


@pytest.mark.parametrize("name", ["x.parquet", "file.arrow", "stream.arrow"])
def test_single_file_is_split(tmp_path, name, cache):
    write(tmp_path / name, hub_table(range(60), [number % 2 * 10 + 1 for number in range(60)]))
    found = prepare(tmp_path / name, cache, ReadOptions())
    assert found.classes == ("1", "11")
    assert [len(found.split(split)) for split in SPLITS] == [40, 10, 10]


def test_numbers_without_names_are_ordered_as_numbers(tmp_path):
    write(tmp_path / "x.parquet", hub_table(range(3), [10, 9, 2]))
    assert table_source(scan(tmp_path)).classes == ("2", "9", "10")


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_plain_bytes_and_text_labels(tmp_path, kind, cache):
    labels = pa.array(["bee", "ant"] * 10).cast(kind)
    images = pa.array([png(number) for number in range(20)], pa.large_binary())
    write(tmp_path / "x.parquet", pa.table({"id": list(range(20)), "img": images, "class": labels}))
    found = prepare(tmp_path, cache, ReadOptions())
    assert found.classes == ("ant", "bee")
    assert sum(len(found.split(split)) for split in SPLITS) == 20


@pytest.mark.parametrize("lost", ["-1", "null", "no column"])
def test_unlabelled_test_split_is_replaced(tmp_path, lost, cache):
    write(tmp_path / "train-0.parquet", hub_table(range(40), [number % 2 for number in range(40)]))
    test = hub_table(range(50, 55), [-1 if lost == "-1" else None] * 5)
    write(tmp_path / "test-0.parquet", test.drop(["label"]) if lost == "no column" else test)
    found = prepare(tmp_path, cache, ReadOptions(val_share=0.1, test_share=0.2))
    assert [len(found.split(split)) for split in SPLITS] == [28, 4, 8]
    assert found.notes[0] == "The test split (5 rows) has no labels and is left out."


def test_null_images_and_labels_are_rejected(tmp_path, cache):
    table = hub_table(
        range(40), [number % 2 for number in range(36)] + [-1, None, 7, 0], ["a", "b"]
    )
    rows = table["image"].to_pylist()
    rows[0], rows[1] = None, {"bytes": None, "path": "elsewhere.png"}
    table = table.set_column(0, table.schema.field("image"), pa.array(rows, IMAGE))
    write(tmp_path / "x.parquet", table)
    found = prepare(tmp_path, cache, ReadOptions(max_corrupt=0.2))
    assert {one.path: one.reason for one in found.rejected} == {
        "x.parquet#0": "no image bytes (null)",
        "x.parquet#1": "no image bytes (null)",
        "x.parquet#36": "no class for label -1",
        "x.parquet#37": "no class for label None",
        "x.parquet#38": "no class for label 7",
    }


def test_second_time_reads_no_table(tmp_path, monkeypatch, cache):
    write(tmp_path / "x.parquet", hub_table(range(20), [0, 1] * 10))
    first = prepare(tmp_path / "x.parquet", cache, ReadOptions())

    def refuse(*_):
        raise AssertionError("a table was read")

    monkeypatch.setattr("trainables.sources.tables.table_source", refuse)
    assert prepare(tmp_path / "x.parquet", cache, ReadOptions()) == first


def test_what_the_datasets_library_leaves_behind_is_no_data(tmp_path):
    write(tmp_path / "train" / "data-stream.arrow", hub_table(range(4), [0, 1, 0, 1]))
    write(tmp_path / "train" / "cache-1234.arrow", hub_table(range(4), [0, 1, 0, 1]))
    assert table_source(scan(tmp_path)).total == 4


@pytest.mark.parametrize(
    ("label", "message"), [(0, r"holds 1 class\(es\): give images"), (-1, "holds no labels")]
)
def test_tables_without_two_classes_are_refused(tmp_path, label, message):
    write(tmp_path / "x.parquet", pa.table({"image": [b"x"], "label": [label]}))
    with pytest.raises(UserError, match=rf"Column label of .*x\.parquet {message}"):
        table_source(scan(tmp_path))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train-0", "extra-0"], "extra-0.parquet names no split"),
        (["train-0", "train-test-0"], "names several splits"),
        (["validation-0", "test-0"], "no train file"),
    ],
)
def test_unclear_splits_are_refused(tmp_path, names, message):
    for name in names:
        write(tmp_path / f"{name}.parquet", hub_table([0, 1], [0, 1]))
    with pytest.raises(UserError, match=message):
        table_source(scan(tmp_path))


def test_class_that_train_lacks_is_refused(tmp_path, cache):
    write(tmp_path / "train.parquet", hub_table(range(20), [0, 1] * 10))
    write(tmp_path / "test.parquet", hub_table(range(30, 33), [0, 1, 2]))
    with pytest.raises(UserError, match=r"test split .* a class that train lacks \(2\): add"):
        prepare(tmp_path, cache, ReadOptions())


def told(found):
    """The class name of each image by its number, in all splits."""
    numbers = {png(number): number for number in range(60)}
    decoded = {np.asarray(Image.open(io.BytesIO(data))).tobytes(): n for data, n in numbers.items()}
    return {
        decoded[image.tobytes()]: found.classes[label]
        for name in SPLITS
        for image, label in zip(found.split(name), found.split(name).labels, strict=True)
    }


@pytest.mark.parametrize(
    ("train", "test"),
    [("trainset", "testset"), ("TrainingData", "TestData"), ("train2017", "val2017")],
)
def test_splits_of_tables_are_known_by_many_names(tmp_path, train, test):
    for name in (train, test):
        write(tmp_path / f"{name}.parquet", hub_table([0, 1], [0, 1]))
    source = table_source(scan(tmp_path))
    assert source.given_splits == ("train", "val" if "val" in test else "test")
    assert {item.path.partition(".")[0] for item in source.items() if item.split == "train"} == {
        train
    }


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize(
    "others", [["cat", "bee", "ant"], ["bee", "cat", "ant", "dog"], ["x", "cat", "bee", "ant"]]
)
def test_each_table_is_read_by_its_own_class_names(tmp_path, cache, suffix, others):
    names = ["ant", "bee", "cat"]
    splits = ("train-0", "train-1", "validation", "test")
    for at, split in enumerate(splits):
        own = names if at == 0 else others
        numbers = range(15 * at, 15 * at + 15)
        labels = [own.index(names[number % 3]) for number in numbers]
        write(tmp_path / f"{split}.{suffix}", hub_table(numbers, labels, own))
    found = prepare(tmp_path, cache, ReadOptions())
    assert found.classes == ("ant", "bee", "cat")
    assert told(found) == {number: names[number % 3] for number in range(60)}


def test_a_class_that_only_a_later_table_names_comes_last(tmp_path):
    write(tmp_path / "train-0.parquet", hub_table([0, 1], [0, 1], ["cat", "ant"]))
    write(tmp_path / "train-1.parquet", hub_table([2, 3], [1, 0], ["bee", "cat"]))
    assert table_source(scan(tmp_path)).classes == ("cat", "ant", "bee")


def test_names_and_text_may_be_mixed_but_not_names_and_numbers(tmp_path):
    write(tmp_path / "train-0.parquet", hub_table([0, 1], [0, 1], ["cat", "ant"]))
    text = pa.table({"image": [png(2), png(3)], "label": ["ant", "cat"]})
    write(tmp_path / "train-1.parquet", text)
    source = table_source(scan(tmp_path))
    assert source.classes == ("cat", "ant")
    assert [item.label for item in source.items()] == [0, 1, 1, 0]
    write(tmp_path / "train-2.parquet", hub_table([4, 5], [0, 1]))
    message = r"train-2\.parquet numbers its classes and .*train-0\.parquet names them: give all"
    with pytest.raises(UserError, match=message):
        table_source(scan(tmp_path))


def test_text_that_is_the_same_numbers_is_no_other_class(tmp_path):
    write(tmp_path / "train-0.parquet", hub_table([0, 1], [0, 1]))
    write(tmp_path / "train-1.parquet", pa.table({"image": [png(2)], "label": ["1"]}))
    source = table_source(scan(tmp_path))
    assert source.classes == ("0", "1") and [item.label for item in source.items()] == [0, 1, 1]


def test_a_name_that_is_declared_twice_is_refused(tmp_path):
    write(tmp_path / "x.parquet", hub_table([0, 1, 2], [0, 1, 2], ["a", "b", "a"]))
    with pytest.raises(UserError, match="names the class a of its column label twice"):
        table_source(scan(tmp_path))


def test_a_class_without_images_is_told(tmp_path):
    write(tmp_path / "x.parquet", hub_table([0, 1], [0, 2], ["a", "b", "c", "d"]))
    source = table_source(scan(tmp_path))
    assert source.classes == ("a", "c")
    assert source.notes == (
        "2 class(es) that the tables name have no image in train and get no output, as b.",
    )


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["", "c"], "empty name ''"),
        (["a\nb", "c"], r"line break .*'a\\nb'"),
        (["caf\u00e9", "cafe\u0301"], "look the same"),
    ],
)
def test_labels_that_no_list_can_hold_are_refused(tmp_path, labels, message):
    write(tmp_path / "x.parquet", pa.table({"image": [png(0), png(1)], "label": labels}))
    with pytest.raises(UserError, match=message):
        table_source(scan(tmp_path))


@pytest.mark.parametrize("kind", [pa.float64(), pa.bool_()])
@pytest.mark.parametrize("split", ["train-1", "test"])
def test_labels_of_another_type_in_a_later_table_are_refused(tmp_path, kind, split):
    write(tmp_path / "train-0.parquet", hub_table([0, 1], [0, 1]))
    labels = pa.array([0, None]).cast(kind)
    write(tmp_path / f"{split}.parquet", pa.table({"image": [png(2), png(3)], "label": labels}))
    with pytest.raises(UserError, match=rf"{split}\.parquet is {kind}: give integers or text"):
        table_source(scan(tmp_path))


@pytest.mark.parametrize("empty", [None, float("nan")])
def test_an_unlabelled_split_may_have_an_empty_column_of_floats(tmp_path, empty):
    write(tmp_path / "train-0.parquet", hub_table([0, 1], [0, 1]))
    labels = pa.array([empty, empty], pa.float64())
    write(tmp_path / "test.parquet", pa.table({"image": [png(2), png(3)], "label": labels}))
    source = table_source(scan(tmp_path))
    assert source.notes == ("The test split (2 rows) has no labels and is left out.",)


def test_the_order_of_classes_may_be_asked_for(tmp_path):
    write(tmp_path / "x.parquet", hub_table([0, 1, 2], [0, 1, 2], ["b10", "b9", "a"]))
    listing = scan(tmp_path)
    assert table_source(listing).classes == ("b10", "b9", "a")
    assert table_source(listing, class_order="natural").classes == ("a", "b9", "b10")
    assert table_source(listing, class_order=("b9", "a", "b10")).classes == ("b9", "a", "b10")


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"PAR1 this is no table")
    with pytest.raises(UserError, match=rf"{name} cannot be read .*download it again"):
        table_source(scan(tmp_path))


def test_different_columns_are_refused(tmp_path):
    write(tmp_path / "train-0.parquet", hub_table([0, 1], [0, 1]))
    write(
        tmp_path / "train-1.parquet", hub_table([2, 3], [0, 1]).rename_columns(["picture", "label"])
    )
    with pytest.raises(UserError, match=r"train-1\.parquet lacks the column image"):
        table_source(scan(tmp_path))


def test_text_and_names_of_tables_that_are_no_utf8_are_refused(tmp_path):
    latin = pa.array([b"caf\xe9", b"bee"]).view(pa.string())
    table = pa.table({"image": pa.array([b"1", b"2"]), "label": latin})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"train\.parquet cannot be read \(.*utf-8.*\): check it"):
        table_source(scan(tmp_path))
    name = os.fsencode(tmp_path) + b"/caf\xe9.parquet"
    os.rename(tmp_path / "train.parquet", name)
    with pytest.raises(UserError, match=r"caf\\xe9\.parquet has a name that is not UTF-8: rename"):
        table_source(scan(tmp_path))


def test_groups_that_are_no_utf8_are_refused(tmp_path):
    latin = pa.array([b"bee", b"caf\xe9"]).view(pa.string())
    images = pa.array([png(1), png(2)])
    table = pa.table({"image": images, "label": ["cat", "dog"], "person": latin})
    pq.write_table(table, tmp_path / "train.parquet")
    listing, message = scan(tmp_path), r"train\.parquet cannot be read \(.*utf-8.*\): check it"
    for source in (
        table_source(listing, group_by="person"),
        extra_table_source(listing, ["cat", "dog"], group_by="person"),
    ):
        with pytest.raises(UserError, match=message):
            list(source.items())
    assert len(list(table_source(listing).items())) == 2  # where nothing asks for them
