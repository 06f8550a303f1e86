"""Images that are decoded by threads, in order."""

import hashlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainables.data import decode_pool
from trainables.data.decode_pool import MAX_PENDING_PER_CORE, decode_all, expected_images
from trainables.sources.downloads import MAX_IMAGES_AHEAD
from trainables.sources.source import Item, Source


def png(number, height=6, width=8):
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return pixels, file.getvalue()


def item(content, path="x", reason=""):
    return Item(path=path, label=0, split="train", content=content, reason=reason)


def source_of(items, sample=None):
    return Source(
        classes=("a", "b"),
        total=len(items),
        given_splits=("train",),
        layout="class folders",
        notes=(),
        items=lambda: iter(items),
        sample=lambda: iter(items if sample is None else sample),
    )


@pytest.mark.parametrize("cores", [1, 3])
def test_images_come_in_the_order_of_the_source(tmp_path, monkeypatch, cores):
    monkeypatch.setattr(decode_pool, "available_cores", lambda: cores)
    made = [png(n, height=5 + n % 3) for n in range(40)]
    items = []
    for number, (_, data) in enumerate(made):
        (tmp_path / f"{number}.png").write_bytes(data)
        items.append(item(data if number % 2 else tmp_path / f"{number}.png", str(number)))
    decoded = list(decode_all(source_of(items), 1024, {}))
    assert [one.item for one in decoded] == items
    for one, (pixels, data) in zip(decoded, made, strict=True):
        np.testing.assert_array_equal(one.pixels, pixels)
        assert (one.sha256, one.reason) == (hashlib.sha256(data).digest(), "")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "given reason"),
        (b"no image", "not an image of a known format"),
        (b"", "empty file"),
        (Path("gone.png"), "cannot be read (No such file or directory)"),
    ],
)
def test_what_cannot_be_decoded_comes_with_its_reason(content, reason):
    (one,) = decode_all(source_of([item(content, reason="given reason")]), 1024, {})
    assert (one.pixels, one.sha256, one.reason) == (None, b"", reason)


def test_very_large_files_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_pool, "MAX_FILE_BYTES", 9)
    (tmp_path / "film").write_bytes(b"0" * 10)
    (one,) = decode_all(source_of([item(tmp_path / "film")]), 1024, {})
    assert one.reason == "larger than 1 GiB"


def test_only_a_few_images_are_taken_before_they_are_asked_for(monkeypatch):
    monkeypatch.setattr(decode_pool, "available_cores", lambda: 2)
    taken, (_, data) = [], png(0)

    def items():
        for number in range(400):
            taken.append(number)
            yield item(data)

    decoded: Any = decode_all(Source(**{**vars(source_of([])), "items": items}), 1024, {})
    next(decoded)
    decoded.close()
    assert len(taken) <= MAX_IMAGES_AHEAD + 2 * MAX_PENDING_PER_CORE + 2


def test_the_estimate_counts_reduced_images_and_leaves_out_unreadable_ones():
    small, large = png(0)[1], png(1, height=40, width=20)[1]
    sizes = [6 * 8 * 3, 20 * 10 * 3, 0, 0]
    items = [item(small), item(large), item(b"no image"), item(None, reason="none")]
    assert expected_images(source_of(items), 10, {}).stored_bytes == sum(sizes)
    of_part = expected_images(source_of(items * 5, sample=items), 10, {})
    assert of_part.stored_bytes == 5 * sum(sizes)
    assert expected_images(source_of([]), 10, {}).stored_bytes == 0


def test_splits_are_estimated_as_the_data_has_them_or_as_they_will_be_made():
    shares, (_, data) = {"val": 0.25, "test": 0.25}, png(0)
    bare = source_of([item(data)] * 40)
    assert expected_images(bare, 10, shares).counts == {"train": 20, "val": 10, "test": 10}
    assert not expected_images(bare, 10, shares).splits_are_guessed
    items = [replace(item(data), split=split) for split in ("train", "train", "train", "val")]
    given = replace(source_of(items * 10, sample=items), given_splits=("train", "val"))
    assert expected_images(given, 10, {"test": 0.25}).counts == {"train": 23, "val": 10, "test": 7}
    assert expected_images(given, 10, {"test": 0.25}).splits_are_guessed
