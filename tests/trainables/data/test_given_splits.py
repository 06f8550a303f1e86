"""Which images are in which split: what is kept together, and what picks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainables.data.decode import prepare
from trainables.data.image_set import ImageSet
from trainables.data.options import ReadOptions
from trainables.sources.splits import SPLITS

PERSONS, CLASSES = 20, "ab"


def write(path: Path, number: int) -> None:
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG")


def persons(root: Path, first: int = 0, count: int = PERSONS) -> Path:
    """Three pictures of each person and class; the first pixel's red says whose it is."""
    for person in range(first, first + count):
        for label, name in enumerate(CLASSES):
            for shot in range(3):
                path = root / name / f"p{person:02}_{shot}.png"
                write(path, 1000 * person + 10 * label + shot)
                with Image.open(path) as image:
                    image.putpixel((0, 0), (person, 0, 0))
                    image.save(path)
    return root


def of_split(found: ImageSet) -> dict[str, list[int]]:
    """The persons in each split, one entry for each image."""
    return {
        name: [int(found.split(name)[i][0, 0, 0]) for i in range(len(found.split(name)))]
        for name in SPLITS
    }


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_persons_are_in_one_split_each(tmp_path: Path, cache: Path) -> None:
    data = persons(tmp_path / "data")
    found = prepare(data, cache, ReadOptions(group_by=r"(p\d+)_"))
    splits = {name: set(whose) for name, whose in of_split(found).items()}
    assert [len(splits[name]) for name in SPLITS] == [14, 3, 3]
    assert set.union(*splits.values()) == set(range(PERSONS))
    assert found.notes == (
        r"Images are kept together by the pattern (p\d+)_: 20 group(s) of 6 image(s).",
        "The data has no val split: 18 images of train became it, 15.0% in 3 group(s) where 15.0%"
        " was asked, by a hash of their group (seed 0).",
        "The data has no test split: 18 images of train became it, 15.0% in 3 group(s) where 15.0%"
        " was asked, by a hash of their group (seed 0).",
    )
    assert found.splits_in_words == (
        "val is 18 images of its train; test is 18 images of its train; images are kept together by"
        r" the pattern (p\d+)_"
    )
    apart = {
        name: set(whose) for name, whose in of_split(prepare(data, cache, ReadOptions())).items()
    }
    assert apart["val"] & apart["train"]  # what the option is for


def test_groups_are_counted_also_where_the_cache_has_the_images(
    tmp_path: Path, cache: Path
) -> None:
    data, grouped = persons(tmp_path / "data"), ReadOptions(group_by=r"(p\d+)_")
    first = prepare(data, cache, grouped)
    expected = {
        split: {f"p{person:02}": 6 for person in whose} for split, whose in of_split(first).items()
    }
    assert sum(map(len, expected.values())) == PERSONS
    for found in (first, prepare(data, cache, grouped)):
        assert {split: found.groups(split) for split in SPLITS} == expected
    assert first.merged().groups("train") == {**expected["train"], **expected["val"]}
    path = first.groups_path
    assert path is not None
    for damage in (
        None,
        b"",
        b"\xff",
        b'{"val": ',
        b"[]",
        b'{"val": [1]}',
        b'{"val": {"p01": "6"}}',
    ):
        path.unlink() if damage is None else path.write_bytes(damage)
        assert prepare(data, cache, grouped).groups("val") == expected["val"], damage
    assert not prepare(data, cache, ReadOptions()).groups("train")


@pytest.mark.parametrize("damage", ["[]", "null", '{"digest": 1}', '{"digest": []}', "{", '"x"'])
@pytest.mark.parametrize("kept", ["images.json", "listing"])
def test_what_the_cache_keeps_of_a_listing_is_made_anew_where_it_is_damaged(
    tmp_path: Path, cache: Path, damage: str, kept: str
) -> None:
    data = persons(tmp_path / "data")
    first = prepare(data, cache, ReadOptions())
    [listing] = (cache / "listings").glob("*.json")
    path = listing if kept == "listing" else first.root / kept
    sound = path.read_text()
    path.write_text(damage)
    assert prepare(data, cache, ReadOptions()) == first
    assert json.loads(path.read_text()) == json.loads(sound)


def test_given_splits_that_share_groups_are_told(tmp_path: Path, cache: Path) -> None:
    persons(tmp_path / "data" / "train")
    for split, first in (("val", 18), ("test", 40)):
        persons(tmp_path / "data" / split, first, 4)
    for path in (tmp_path / "data" / "val").rglob("*.png"):  # other shots of the same persons
        with Image.open(path) as image:
            image.putpixel((1, 0), (1, 2, 3))
            image.save(path)
    plain = prepare(tmp_path / "data", cache, ReadOptions())
    found = prepare(tmp_path / "data", cache, ReadOptions(group_by=r"(p\d+)_"))
    assert found.digest == plain.digest
    assert "2 group(s) of val are also in train, with 12 image(s) of val." in found.notes
    assert not any("groups" in note for note in plain.notes)
    assert found.splits_in_words.startswith("train, val and test are the data's own; images are")


def test_a_test_split_carved_beside_a_given_val_shares_no_group_with_it(
    tmp_path: Path, cache: Path
) -> None:
    persons(tmp_path / "data" / "train")
    persons(tmp_path / "data" / "val", 18, 4)
    found = prepare(tmp_path / "data", cache, ReadOptions(group_by=r"(p\d+)_"))
    splits = {name: set(whose) for name, whose in of_split(found).items()}
    assert splits["test"] and not splits["test"] & (splits["train"] | splits["val"])


# --- what picks ---------------------------------------------------------------------------------


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Train and val, no test; the persons of val are 20 to 25."""
    persons(tmp_path / "data" / "train")
    return persons(tmp_path / "data" / "val", PERSONS, 6).parent


def test_val_of_the_data_is_test_where_a_part_of_train_picks(imagenet: Path, cache: Path) -> None:
    found = prepare(imagenet, cache, ReadOptions(pick_share=0.1))
    whose = of_split(found)
    assert set(whose["test"]) == set(range(20, 26)) and len(whose["test"]) == 36
    assert [len(whose[name]) for name in ("train", "val")] == [108, 12]
    assert set(whose["train"] + whose["val"]) == set(range(PERSONS))
    assert found.notes == (
        "The data has no test split: its val is test, and 12 images of train, held out, pick in its"
        " place, by a hash of their bytes (seed 0).",
    )
    assert found.splits_in_words == (
        "test is val of the data, which picks nothing; val, which picks, is 12 images of its train"
    )


def test_without_it_val_picks_and_test_is_a_part_of_train(imagenet: Path, cache: Path) -> None:
    found = prepare(imagenet, cache, ReadOptions())
    whose = of_split(found)
    assert set(whose["val"]) == set(range(20, 26))
    assert [len(whose[name]) for name in ("train", "test")] == [102, 18]
    assert found.splits_in_words == (
        "train and val are the data's own; test is 18 images of its train"
    )


def test_a_data_set_with_a_test_split_alone_holds_as_much_out(imagenet: Path, cache: Path) -> None:
    as_val = prepare(imagenet, cache, ReadOptions(pick_share=0.1))
    (imagenet / "val").rename(imagenet / "test")
    as_test = prepare(imagenet, cache, ReadOptions(pick_share=0.1))
    assert as_test.digest == as_val.digest
    assert as_test.splits_in_words.startswith("train and test are the data's own; val, which picks")


@pytest.mark.parametrize("given", [("train",), ("train", "val", "test")])
def test_where_nothing_can_be_put_in_its_place_that_is_said(
    tmp_path: Path, cache: Path, given: tuple[str, ...]
) -> None:
    for place, split in enumerate(given):
        persons(tmp_path / "data" / split, 20 * place, 6)
    found, plain = (
        prepare(tmp_path / "data", cache, ReadOptions(pick_share=p)) for p in (0.1, None)
    )
    assert found.digest == plain.digest
    named = "val and test" if len(given) > 1 else "neither val nor test"
    assert f"The data has {named}: no part of train is held out in place of val." in found.notes


def test_groups_of_what_picks_are_held_out_whole(imagenet: Path, cache: Path) -> None:
    found = prepare(imagenet, cache, ReadOptions(pick_share=0.1, group_by=r"(p\d+)_"))
    whose = of_split(found)
    assert len(set(whose["val"])) == 2 and not set(whose["val"]) & set(whose["train"])
    assert any("12 images of train, held out, pick" in note for note in found.notes)


def test_listings_and_digests_of_before_are_found(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = persons(tmp_path / "data")
    first = prepare(data, cache, ReadOptions())
    for record in (cache / "listings").glob("*.json"):  # as it was before splits had words
        text = record.read_text()
        assert '"splits": ' in text
        record.write_text(text.replace('"splits": ', '"unknown": '))

    def refuse(*_: Any) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr("trainables.data.decode_pool._read", refuse)
    again = prepare(data, cache, ReadOptions())
    assert again == first and again.splits_in_words == ""
    for other in (ReadOptions(pick_share=0.1), ReadOptions(group_by="(p)")):
        with pytest.raises(AssertionError, match=r"an image was read"):
            prepare(data, cache, other)
