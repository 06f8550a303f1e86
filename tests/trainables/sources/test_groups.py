"""What tells which images belong together, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainables.errors import UserError
from trainables.sources.folders import folder_source, scan
from trainables.sources.groups import count_groups, group_notes, grouped_by_path
from trainables.sources.source import Source
from trainables.sources.tables import table_source


def files(root: Path, *paths: str) -> Source:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return folder_source(scan(root))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return files(tmp_path, "a/p1_1.jpg", "a/p1_2.jpg", "b/p1_3.jpg", "b/p22_1.jpg", "b/odd.jpg")


def groups_of(source: Source) -> dict[str, str | None]:
    return {item.path: item.group for item in source.items()}


def test_a_pattern_finds_the_group_anywhere_in_the_path(source: Source) -> None:
    assert groups_of(grouped_by_path(source, r"(p\d+)_", Path("data"))) == {
        "a/p1_1.jpg": "p1",
        "a/p1_2.jpg": "p1",
        "b/p1_3.jpg": "p1",
        "b/p22_1.jpg": "p22",
        "b/odd.jpg": None,
    }
    assert set(groups_of(grouped_by_path(source, "^([ab])/", Path("data"))).values()) == {"a", "b"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(p", r"`group_by` \(p is no regular expression \(missing \).*\): give one with one"),
        (r"p\d+", r"`group_by` p\\d\+ has 0 groups in round brackets"),
        (r"(p)(\d+)", r"`group_by` .* has 2 groups in round brackets"),
        (r"(q\d+)", r"matches none of the 5 files of data, as a/p1_1\.jpg: mend the pattern"),
    ],
)
def test_a_pattern_that_groups_nothing_is_refused(
    source: Source, pattern: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        grouped_by_path(source, pattern, Path("data"))


def test_what_is_said_of_groups() -> None:
    groups = ["a", "a", "b", None, "b", "c"]
    splits = ["train", "train", "train", "train", "val", "test"]
    assert group_notes("the pattern x", ["1", "2", "3", "4", "5", "6"], groups, splits) == [
        "Images are kept together by the pattern x: 3 group(s) of 1 to 2 images.",
        "1 image(s) have no group by the pattern x, as 4: each is a group of its own.",
        "1 group(s) of val are also in train, with 1 image(s) of val.",
    ]
    assert [count_groups(groups, splits, s) for s in ("train", "val", "test")] == [3, 1, 1]


def table(folder: Path, **columns: list[object]) -> Path:
    count = len(next(iter(columns.values())))
    images = {"image": [b"x"] * count, "label": [n % 2 for n in range(count)]}
    pq.write_table(pa.table({**images, **columns}), folder / "all.parquet")
    return folder


@pytest.mark.parametrize("patients", [["p1", "p2", "p1", None], [7, 8, 7, None]])
def test_a_column_of_a_table_names_groups(tmp_path: Path, patients: list[object]) -> None:
    listing = scan(table(tmp_path, patient=patients))
    source = table_source(listing, group_by="patient")
    expected = [None if one is None else str(one) for one in patients]
    assert [item.group for item in source.items()] == expected
    assert [item.label for item in source.items()] == [0, 1, 0, 1]
    assert all(item.group is None for item in table_source(listing).items())


def test_a_column_that_is_missing_or_holds_no_words_is_refused(tmp_path: Path) -> None:
    listing = scan(table(tmp_path, patient=[0.5, 1.5]))
    with pytest.raises(UserError, match=r"`group_by` person is no column of .*: name one of image"):
        table_source(listing, group_by="person")
    with pytest.raises(UserError, match=r"Column patient of .* is double: give integers or text"):
        table_source(listing, group_by="patient")
