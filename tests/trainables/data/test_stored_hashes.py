"""Perceptual hashes beside the decoded pixels, also of sets that were decoded without them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.data import stored_hashes
from trainables.data.decode import prepare
from trainables.data.image_set import ImageSet, SplitImages
from trainables.data.options import ReadOptions
from trainables.data.stored_hashes import HASHES, hashes_of
from trainables.near_duplicates.perceptual_hash import perceptual_hash
from trainables.sources.splits import SPLITS


def expected(images: SplitImages) -> list[list[int]]:
    return [perceptual_hash(images[n]).tolist() for n in range(len(images))]


@pytest.fixture
def found(tmp_path: Path) -> ImageSet:
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
        # Decoded a second time, once it is known which value is white in all of the kind.
        for number, largest in enumerate((900, 4000)):
            grey = rng.integers(0, largest, (40, 60)).astype(np.uint16)
            Image.fromarray(grey).save(tmp_path / "data" / name / f"deep{number}.png")
    return prepare(tmp_path / "data", tmp_path / "cache", ReadOptions())


def test_the_decode_pass_hashes_what_it_stores(found: ImageSet) -> None:
    assert (found.root / HASHES).exists()
    for split in SPLITS:
        images = found.split(split)
        assert hashes_of(images).tolist() == expected(images)
        assert len(images.paths()) == len(images)
    merged = found.merged().split("train")
    assert hashes_of(merged).tolist() == expected(merged)


def test_images_are_hashed_in_jobs_of_several_and_none_is_left_out(
    found: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found.root / HASHES).unlink()
    monkeypatch.setattr(stored_hashes, "IMAGES_A_JOB", 5)  # of 24
    whole = SplitImages(found.root, SPLITS)
    assert hashes_of(whole).tolist() == expected(whole)


@pytest.mark.parametrize("damage", ["none", "cut", "other", "words"])
def test_a_set_without_sound_hashes_gets_them_from_its_pixels(
    found: ImageSet, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, train = found.root / HASHES, found.split("train")
    if damage == "none":  # as every set that was decoded before there were hashes
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:50])
    elif damage == "other":
        np.save(path, np.zeros((3, 4), dtype=np.uint64))
    else:
        path.write_text("no array")
    assert hashes_of(train).tolist() == expected(train)
    # It is kept, and not made again.
    monkeypatch.setattr("trainables.data.stored_hashes.perceptual_hash", None)
    assert hashes_of(train).tolist() == expected(train)


def test_another_users_cache_is_read_as_it_is(
    found: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found.root / HASHES).unlink()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    val = found.split("val")
    assert hashes_of(val).tolist() == expected(val)
    assert not (found.root / HASHES).exists()
