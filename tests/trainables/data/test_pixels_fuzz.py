"""Mutated image files: an array or a reason comes of each, in bounded memory."""

from __future__ import annotations

import io
import os
import resource
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.trainables.data.deep_images import COLOUR, COLOUR_ALPHA, GREY, GREY_ALPHA, png, tiff
from trainables.data.pixels import BadImageError, decode, stored_bytes

SIDE = 16
MAX_PIXELS = 500_000  # more are a bomb: four times as many bytes are there for a moment
MAX_GROWTH_KIB = 400_000
LAST = os.environ.get("FUZZ_LAST")  # where a file is left that kills the process


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def originals() -> list[bytes]:
    """Small files of every format that is read, in several of its forms."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    grey, palette, clear = colour.convert("L"), colour.quantize(16), colour.convert("RGBA")
    clear.putalpha(grey)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [grey.convert("RGB")]}
    deep = rng.integers(0, 4096, (20, 30)).astype(np.uint16)
    deep_colour = rng.integers(0, 4096, (20, 30, 4)).astype(np.uint16)
    found = [
        *(saved(image, "PNG") for image in (colour, grey, palette, clear, colour.convert("1"))),
        saved(palette, "PNG", transparency=3),
        saved(colour, "PNG", **frames),
        *(png(deep_colour[..., : n + 1], c) for n, c in ((1, GREY_ALPHA), (2, COLOUR))),
        png(deep, GREY),
        png(deep_colour, COLOUR_ALPHA),
        saved(colour, "JPEG", exif=exif.tobytes()),
        saved(colour, "JPEG", progressive=True),
        saved(grey, "JPEG"),
        saved(colour.convert("CMYK"), "JPEG"),
        saved(colour, "GIF", **frames),
        saved(palette, "GIF", transparency=2, interlace=1),
        *(
            saved(colour, "TIFF", compression=name)
            for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
        ),
        saved(colour.convert("1"), "TIFF", compression="group4"),
        saved(clear, "TIFF"),
        saved(colour, "TIFF", exif=exif.tobytes(), **frames),
        saved(Image.fromarray(deep.astype(np.float32)), "TIFF"),
        *(tiff(deep, order=order, deflated=d) for order in ("<", ">") for d in (False, True)),
        tiff(deep.astype(np.int32)),
        *(tiff(deep_colour[..., :n], deflated=d) for n in (3, 4) for d in (False, True)),
        saved(colour, "WEBP"),
        saved(clear, "WEBP", lossless=True),
        saved(colour, "WEBP", **frames),
        *(saved(image, "BMP") for image in (colour, palette, clear)),
        *(saved(image, "PPM") for image in (colour, grey, Image.fromarray(deep))),
        b"P3\n2 2\n4095\n" + b"1 22 4095 " * 4,
        b"P6\n30 20\n65535\n" + deep_colour[..., :3].astype(">u2").tobytes(),
        *(saved(image, "JPEG2000") for image in (colour, clear, Image.fromarray(deep))),
        b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(40),
    ]
    if "AVIF" in Image.SAVE:
        found.append(saved(colour, "AVIF"))
    return found


ORIGINALS = originals()
POSITION = st.floats(0, 1, exclude_max=True)
NUMBERS = st.sampled_from([0, 1, 7, 255, 256, 20000, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
MUTATION = st.one_of(
    st.tuples(st.just("bytes"), POSITION, st.binary(min_size=1, max_size=6)),
    st.tuples(st.just("number"), POSITION, st.tuples(NUMBERS, st.sampled_from(["<", ">"]))),
    st.tuples(st.just("cut"), POSITION, POSITION),
    st.tuples(st.just("twice"), POSITION, POSITION),
    st.tuples(st.just("insert"), POSITION, st.binary(max_size=20)),
    st.tuples(st.just("end"), POSITION, st.none()),
)


def mutated(data: bytes, mutation: tuple[str, float, Any]) -> bytes:
    kind, where, value = mutation
    at = int(where * len(data))
    if kind == "bytes":
        return data[:at] + value + data[at + len(value) :]
    if kind == "number":
        number, order = value
        packed = struct.pack(f"{order}I" if number > 0xFFFF else f"{order}H", number)
        return data[:at] + packed + data[at + len(packed) :]
    if kind == "cut":
        return data[:at] + data[at + int(value * (len(data) - at)) // 4 :]
    if kind == "twice":
        return data[:at] + data[int(value * len(data)) :]
    return data[:at] + (value + data[at:] if kind == "insert" else b"")


def with_right_sums(data: bytes) -> bytes:
    """Mend the checksums of a PNG: else none of its chunks but the untouched ones is read."""
    at, result = 8, data[:8]
    while at + 12 <= len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        if at + 12 + size > len(data):
            break
        body = data[at + 4 : at + 8 + size]
        result += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return result + data[at:]


@pytest.fixture(autouse=True)
def _small_bombs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(Image, "MAX_IMAGE_PIXELS", MAX_PIXELS)
        yield


def check(data: bytes, whites: dict[str, int]) -> None:
    if LAST:
        Path(LAST).write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    estimated = stored_bytes(data, SIDE)
    try:
        picture, reason = decode(data, SIDE, whites), ""
    except BadImageError as error:
        picture, reason = None, str(error)
    if picture is None:
        assert reason and "\n" not in reason
    else:
        rgb = picture.rgb
        assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3 and rgb.size
        assert min(rgb.shape[:2]) <= SIDE and rgb.flags.c_contiguous
        assert estimated == rgb.nbytes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_GROWTH_KIB


BOUNDED = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=150)
WHITES = st.sampled_from([{}, {"16-bit grey PNG": 255, "16-bit colour TIFF": 1023}])


@BOUNDED
@given(st.sampled_from(ORIGINALS), st.lists(MUTATION, max_size=4), st.booleans(), WHITES)
def test_mutated_files_give_an_array_or_a_reason(
    data: bytes, mutations: list[tuple[str, float, Any]], mended: bool, whites: dict[str, int]
) -> None:
    for mutation in mutations:
        data = mutated(data, mutation)
    check(with_right_sums(data) if mended and data[:4] == b"\x89PNG" else data, whites)


@BOUNDED
@given(st.sampled_from([data[:16] for data in ORIGINALS]), st.binary(max_size=300))
def test_files_that_only_begin_like_images_give_an_array_or_a_reason(
    head: bytes, body: bytes
) -> None:
    check(head + body, {})


@pytest.mark.parametrize("number", range(len(ORIGINALS)))
def test_the_files_that_are_mutated_are_read(number: int) -> None:
    data = ORIGINALS[number]
    try:
        reason = "" if decode(data, SIDE).rgb.size else "empty"
    except BadImageError as error:
        reason = str(error)
    assert not reason or b"ftypheic" in data or reason.startswith("floating-point")
