"""Class folders or tables: told apart, or refused where a listing holds both."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.factories import is_one_sentence
from trainables.errors import UserError
from trainables.sources.folders import scan
from trainables.sources.reading import read_extra_source, read_source


def pictures(root, *folders):
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "1.jpg").write_bytes(folder.encode())
    return root


def table(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def read(root, layout="auto"):
    return read_source(scan(root), root / "scratch", layout, "string")


def test_a_table_beside_class_folders_is_refused_and_either_may_be_asked_for(tmp_path):
    table(pictures(tmp_path, "a", "b") / "sample.parquet", image=[b"1", b"2"], label=["x", "y"])
    with pytest.raises(UserError, match=r"holds both sample\.parquet and .* as a/: move") as caught:
        read(tmp_path)
    assert is_one_sentence(str(caught.value))
    with pytest.raises(UserError, match="holds both"):
        read_extra_source(scan(tmp_path), tmp_path, "auto", ("a", "b"))
    folders, tables = read(tmp_path, "folders"), read(tmp_path, "tables")
    assert folders.classes == ("a", "b")
    assert folders.notes == (
        "1 file(s) outside of the class folders are left out, as sample.parquet.",
    )
    assert tables.classes == ("x", "y") and tables.layout == "tables (1 file(s) of train)"
    assert tables.notes == ("2 image file(s) beside the tables are left out, as a/1.jpg.",)


def test_a_table_about_the_images_is_left_out_with_a_note(tmp_path):
    table(pictures(tmp_path, "a", "b") / "metadata.parquet", file_name=["a/1.jpg"], width=[3])
    source = read(tmp_path)
    assert source.classes == ("a", "b") and "as metadata.parquet" in source.notes[0]


def test_a_picture_of_a_readme_does_not_make_tables_unclear(tmp_path):
    table(pictures(tmp_path, "assets") / "data/train-0.parquet", image=[b"1"] * 2, label=[0, 1])
    source = read(tmp_path)
    assert source.classes == ("0", "1")
    assert source.notes == ("1 image file(s) beside the tables are left out, as assets/1.jpg.",)


def test_tables_that_are_asked_for_and_missing_are_told(tmp_path):
    with pytest.raises(UserError, match=r"no Parquet or Arrow file, though `layout` is tables"):
        read(pictures(tmp_path, "a", "b"), "tables")
