"""A set whose pixels have no room keeps the files: all that comes of it is the same."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.trainables.data.deep_images import GREY
from tests.trainables.data.deep_images import png as deep_png
from tests.trainables.training.small_nets import UNIT
from trainables.data import decode, decode_pass
from trainables.data.cache import GrowingFile
from trainables.data.decode import known_set, prepare
from trainables.data.decode_pool import expected_images
from trainables.data.image_set import FILES, Form, ImageSet
from trainables.data.loader import train_batches
from trainables.data.options import ReadOptions
from trainables.errors import SweepError, UserError
from trainables.transforms.augmentation import Augmentation

SPLITS = ("train", "val", "test")
SIDE = 96  # px: most images are stored reduced


def smooth(number: int, height: int, width: int) -> Image.Image:
    colours = np.random.default_rng(number).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs, one of them turned by its EXIF, and grey PNGs of 12 bits in 16 that share a white."""
    root = tmp_path_factory.mktemp("photos")
    for label in range(3):
        folder = root / f"class{label}"
        folder.mkdir()
        for i in range(14):
            picture = smooth(100 * label + i, 90 + 3 * i, 130 + i)
            exif = Image.Exif()
            exif[0x0112] = 6 if i == 3 else 1
            picture.save(folder / f"{i}.jpg", quality=85, exif=exif)
        for i, largest in enumerate((900, 4000)):  # the first alone would look like 10 bits
            grey = np.asarray(ImageOps.grayscale(smooth(label, 60, 70)), np.uint16)
            deep = (grey * (largest / max(1, grey.max()))).astype(np.uint16) + label
            (folder / f"deep{i}.png").write_bytes(deep_png(deep, GREY))
    return root


def options(cache_gb: float | None = None) -> ReadOptions:
    return ReadOptions(cache_side=SIDE, cache_gb=cache_gb)


@pytest.fixture(scope="module")
def decoded(data: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return prepare(data, tmp_path_factory.mktemp("decoded"), options())


def room_for_files(data: Path, decoded: ImageSet) -> float:
    """A bound of the cache, GB, that holds the files and not their pixels."""
    files = sum(path.stat().st_size for path in data.rglob("*.*"))
    pixels = (decoded.root / FILES["decoded"]).stat().st_size
    assert 2 * files + 30_000 < pixels
    return (files + 30_000) / 1e9


@pytest.fixture(scope="module")
def encoded(data: Path, decoded: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    cache = tmp_path_factory.mktemp("encoded")
    return prepare(data, cache, options(room_for_files(data, decoded)))


def test_all_of_the_set_is_the_same(decoded: ImageSet, encoded: ImageSet) -> None:
    assert (encoded.root / FILES["encoded"]).exists()
    assert not (encoded.root / FILES["decoded"]).exists()
    assert encoded.digest == decoded.digest and encoded.classes == decoded.classes
    assert encoded.whites == decoded.whites and decoded.whites
    for name in SPLITS:
        one, other = decoded.split(name), encoded.split(name)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_array_equal(one.sizes, other.sizes)
        assert one.paths() == other.paths()
        for i in range(len(one)):
            np.testing.assert_array_equal(one[i], other[i])
    hashes = [(made.root / "perceptual-1.npy").read_bytes() for made in (decoded, encoded)]
    assert hashes[0] == hashes[1]


def test_the_plan_says_what_that_costs(decoded: ImageSet, encoded: ImageSet) -> None:
    (note,) = set(encoded.notes) - set(decoded.notes)
    assert "kept as their files (0." in note and " ms. Results are the same." in note


@pytest.mark.parametrize("kept", ["decoded", "encoded"])
def test_a_copy_of_the_data_is_told_the_form_that_its_set_has(
    data: Path, tmp_path: Path, kept: Form
) -> None:
    """It comes to the set that is there, whatever form it would have been given itself."""
    other: Form = "encoded" if kept == "decoded" else "decoded"
    copy = shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copyfile)
    there = prepare(data, tmp_path / "cache", options(), expect=lambda _: kept)
    for _ in range(2):  # decoded, then answered from the cache
        found = prepare(copy, tmp_path / "cache", options(), expect=lambda _: other)
        assert found.root == there.root and (found.root / FILES[kept]).exists()
        assert found.notes == there.notes
        assert any("kept as their files" in note for note in found.notes) == (kept == "encoded")


def test_batches_are_the_same(decoded: ImageSet, encoded: ImageSet) -> None:
    made = [
        list(
            train_batches(
                images.split("train"),
                32,
                batch_size=8,
                augmentation=Augmentation(),
                preprocessing=UNIT,
                seed=(0, 1),
                threads=2,
            )
        )
        for images in (decoded, encoded)
    ]
    assert len(made[0]) == len(made[1]) > 2
    for one, other in zip(*made, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_another_process_opens_it_without_its_files(encoded: ImageSet, decoded: ImageSet) -> None:
    found = known_set(encoded.root.parent, encoded.digest, options(1.0))
    assert found is not None
    again = pickle.loads(pickle.dumps(found.split("val")))
    np.testing.assert_array_equal(again[0], decoded.split("val")[0])
    merged = found.merged().split("train")
    assert len(merged) == len(found.split("train")) + len(found.split("val"))
    np.testing.assert_array_equal(merged[3], decoded.merged().split("train")[3])


def test_where_the_estimate_was_too_low_the_files_are_kept_instead(
    data: Path, decoded: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sampled were small images: the room runs out while pixels are written."""
    estimate = expected_images
    monkeypatch.setattr(
        decode,
        "expected_images",
        lambda *given: replace(
            (real := estimate(*given)), stored_bytes=real.file_bytes + 1, file_bytes=real.file_bytes
        ),
    )
    passes: list[str] = []
    whole_pass = decode_pass.decode_into

    def counted(draft: Path, form: str, *given: object) -> object:
        passes.append(form)
        return whole_pass(draft, form, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(decode, "decode_into", counted)
    found = prepare(data, tmp_path / "cache", options(room_for_files(data, decoded)))
    assert passes == ["decoded", "encoded"] and found.digest == decoded.digest


def test_where_the_quota_of_the_user_ends_the_files_are_kept_instead(
    data: Path, decoded: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the disk says that it has room."""
    room, append = room_for_files(data, decoded) * 1e9, GrowingFile.append

    def within_quota(file: GrowingFile, content: memoryview) -> None:
        if file.size + content.nbytes > room:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        append(file, content)

    monkeypatch.setattr(GrowingFile, "append", within_quota)
    found = prepare(data, tmp_path / "cache", options())
    assert (found.root / FILES["encoded"]).exists() and found.digest == decoded.digest


def test_files_are_kept_where_they_are_asked_for(
    data: Path, decoded: ImageSet, tmp_path: Path
) -> None:
    found = prepare(data, tmp_path / "cache", options(), expect=lambda _: "encoded")
    assert (found.root / FILES["encoded"]).exists() and found.digest == decoded.digest


def test_without_room_for_the_files_it_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cache_gb.*a larger `cache_gb` or disk"):
        prepare(data, tmp_path / "cache", options(1e-5))
    assert not list((tmp_path / "cache").glob("tmp-*"))


def test_a_file_that_the_disk_has_damaged_is_one_sentence(
    data: Path, decoded: ImageSet, tmp_path: Path
) -> None:
    found = prepare(data, tmp_path / "cache", options(room_for_files(data, decoded)))
    path = found.root / FILES["encoded"]
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(SweepError, match=r"is damaged .*: delete that folder, and the same"):
        found.split("train")[0]
