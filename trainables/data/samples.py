"""Scale samples of more than eight bits to eight: decide which value is white.

Files of 16 or 32 bits a sample often hold fewer: 12 bits of a camera, 0..255 of an array that was
saved as it was. Few say so. White is what the file states; else what it is for all images of that
kind in the set; else the least of ``WHITES`` that holds the file's largest value. PNG's sBIT states
nothing here: it tells how exact samples are, which by PNG's rules fill the range.

A finished model brings this module along: it imports numpy and Pillow alone.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

WHITES = (255, 1023, 4095, 16383, 65535)  # 8, 10, 12, 14 and 16 bits
FULL = WHITES[-1]
STRIP_SAMPLES = 1 << 24  # that are scaled at a time

_DEEP_COLOUR = re.compile(r"(RGB|RGBA|RGBX|CMYK|LA);16([BLN])")
# TIFF's tags.
_BITS, _PHOTOMETRIC, _MAX_SAMPLE_VALUE, _PLANAR = 258, 262, 281, 284
_SEPARATE_PLANES = 2


class BadSamplesError(Exception):
    """Samples whose range is unknown; the message is the reason, in a few words."""


class Samples(NamedTuple):
    """How an image's samples of more than eight bits were read."""

    kind: str  # what their white is shared among, as "16-bit grey PNG"
    largest: int  # no sample is larger
    white: int
    stated: bool  # by the file
    inverted: bool = False  # 0 is white

    @property
    def reading(self) -> str:
        """What makes pixels other than by the full range, for digests; "" where nothing does."""
        scale = f"{self.kind} to {self.white}" if self.white != FULL else ""
        return f"{scale} inverted".lstrip() if self.inverted else scale


class Layout(NamedTuple):
    """How samples lie in the file; known before they are loaded."""

    raw_mode: str  # Pillow's name, as "RGB;16B"
    max_value: int | None  # that a PPM states
    offset: int  # bytes


def layout_of(image: Image.Image) -> Layout:
    """Tell how the samples of an image lie in its file, before it is loaded.

    Raises:
        BadSamplesError: they lie so that Pillow reads other pixels than the file's.
    """
    tags = _tags(image)
    if tags.get(_PLANAR) == _SEPARATE_PLANES and max(tags.get(_BITS, (1,))) > 8:
        raise BadSamplesError("more than 8 bits in separate planes: save it with mixed planes")
    tiles: list[Any] = getattr(image, "tile", [])
    if not tiles:
        return Layout("", None, 0)
    codec, _, offset, args = tiles[0]
    words = args if isinstance(args, tuple) else (args,)
    is_ppm = image.format == "PPM" and len(words) > 1 and codec.startswith("ppm")
    return Layout(str(words[0]), words[-1] if is_ppm else None, int(offset or 0))


def least_white(largest: int) -> int:
    """Find the least white that holds the largest value."""
    return next(white for white in WHITES if largest <= white)


def shared_whites(read: Iterable[Samples | None]) -> dict[str, int]:
    """Find the white of each kind of images: the least that holds the largest value of all."""
    largest: dict[str, int] = {}
    for one in read:
        if one is not None and not one.stated:
            largest[one.kind] = max(largest.get(one.kind, 0), one.largest)
    return {kind: least_white(value) for kind, value in sorted(largest.items())}


def white_notes(read: Sequence[Samples | None]) -> list[str]:
    """Write a sentence on each kind of images with more than eight bits: what is white in them."""
    kinds = Counter((one.kind, one.white, one.stated) for one in read if one is not None)
    return [
        f"{count} image(s) are {kind}: {white:,} is white in them, "
        + ("as the file says." if stated else "the least range that holds their values.")
        for (kind, white, stated), count in sorted(kinds.items())
    ]


def is_deep_grey(image: Image.Image) -> bool:
    """Whether a loaded image is grey, with more than eight bits."""
    return image.mode == "I" or image.mode.startswith("I;16")


def scale_grey(
    image: Image.Image, layout: Layout, whites: Mapping[str, int]
) -> tuple[Image.Image, Samples]:
    """Scale a grey image to eight bits.

    Args:
        whites: white by kind.

    Raises:
        BadSamplesError: its range is unknown.
    """
    values = np.asarray(image)
    smallest, largest = int(values.min()), int(values.max())
    if smallest < 0 or largest > FULL:
        raise BadSamplesError("integer pixels outside of 0..65535, whose range is unknown")
    tags = _tags(image)
    bits = max(tags.get(_BITS, (16,)))
    kind = f"{bits}-bit grey {image.format}"
    stated = _stated_white(tags, bits, layout, largest)
    white = stated or _shared_white(kind, largest, whites)
    # Where photometric is WhiteIsZero, Pillow inverts eight bits and fewer only.
    inverted = tags.get(_PHOTOMETRIC) == 0
    table = _table(white)
    grey = Image.fromarray((table[::-1] if inverted else table)[values])
    return grey, Samples(kind, largest, white, stated is not None, inverted)


def scale_colour(
    image: Image.Image,
    layout: Layout,
    whites: Mapping[str, int],
    data: bytes,
    reopen: Callable[[], Image.Image],
) -> tuple[Image.Image, Samples | None]:
    """Scale a colour image to eight bits; one that fills sixteen stays as Pillow has read it.

    Pillow keeps the high byte of each sample. Where that is not enough the low ones are read too,
    by a second decoding with the other byte order.

    Args:
        image: as loaded.
        whites: white by kind.
        data: the bytes of the file.
        reopen: opens it again, not loaded.

    Raises:
        BadSamplesError: its range is unknown.
    """
    found = _DEEP_COLOUR.fullmatch(layout.raw_mode)
    exact = None
    if layout.max_value == FULL and image.mode == "RGB":  # a PPM, which Pillow has rounded
        count = image.width * image.height * 3
        exact = np.frombuffer(data, ">u2", count, layout.offset)
        exact = exact.reshape(image.height, image.width, 3)
        largest = int(exact.max())
    elif found:
        high = np.asarray(image)
        colours = high if image.mode == "CMYK" else high[..., :3]
        largest = (int(colours.max()) << 8) + 255
    else:
        return image, None
    kind = f"16-bit colour {image.format}"
    white = _shared_white(kind, largest, whites)
    read = Samples(kind, largest, white, stated=False)
    if white == FULL:
        return image, read
    if exact is not None:
        high, low, mode = (exact >> 8).astype(np.uint8), (exact & 255).astype(np.uint8), "RGB"
    else:
        assert found is not None
        high, low, mode = _with_low_bytes(high, found, image.mode, reopen)
    return Image.fromarray(_scaled(high, low, white, mode), mode), read


def _with_low_bytes(
    high: np.ndarray, found: re.Match[str], mode: str, reopen: Callable[[], Image.Image]
) -> tuple[np.ndarray, np.ndarray, str]:
    """Read the low bytes of a file whose high bytes were read: high, low, and their mode."""
    order = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[found[2]]
    grey = found[1] == "LA"
    raw_mode = "RGBA" if grey else f"{found[1]};16{order}"
    with reopen() as again:
        tiles: list[Any] = again.tile  # type: ignore[attr-defined]
        for i, tile in enumerate(tiles):
            is_tuple = isinstance(tile.args, tuple)
            tiles[i] = tile._replace(args=(raw_mode, *tile.args[1:]) if is_tuple else raw_mode)
        again.load()
        low = np.asarray(again)
    if grey:  # the four bytes of grey and alpha, high and low
        return low[..., 0::2], low[..., 1::2], "LA"
    return high, low, mode


def _scaled(high: np.ndarray, low: np.ndarray, white: int, mode: str) -> np.ndarray:
    """Scale (H, W, C) samples, given by their bytes, to uint8; alpha may fill the range alone."""
    result = np.empty_like(high)
    has_alpha = mode in ("LA", "RGBA")
    rows = max(1, STRIP_SAMPLES // max(1, high[0].size))
    opaque = white if has_alpha and int(high[..., -1].max()) <= white >> 8 else FULL
    for top in range(0, len(high), rows):
        part = slice(top, top + rows)
        values = (high[part].astype(np.uint16) << 8) | low[part]
        result[part] = _table(white)[np.minimum(values, white)]
        if has_alpha:
            result[part][..., -1] = _table(opaque)[values[..., -1]]
    return result


def _table(white: int) -> np.ndarray:
    """Map 0..white to 0..255, rounded."""
    values = np.arange(white + 1, dtype=np.int64)
    return ((values * 510 + white) // (2 * white)).astype(np.uint8)


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """The tags of a TIFF; none of another file."""
    return getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}


def _stated_white(tags: Mapping[int, Any], bits: int, layout: Layout, largest: int) -> int | None:
    """The white that a file states: its own number of bits, or a largest value that is a range's.

    Pillow brings what a PPM states to 16 bits by itself.
    """
    if layout.max_value is not None and layout.max_value != FULL:
        return FULL
    if bits < 16:
        return int(max(2**bits - 1, least_white(largest)))
    said = tags.get(_MAX_SAMPLE_VALUE)
    said = max(said) if isinstance(said, tuple) and said else said
    return said if said in WHITES and said >= largest else None


def _shared_white(kind: str, largest: int, whites: Mapping[str, int]) -> int:
    """The white of a kind of images, or by the file itself where there is none of them.

    Raises:
        BadSamplesError: the file has larger values.
    """
    white = whites.get(kind)
    if white is None:
        return least_white(largest)
    if largest > white:
        raise BadSamplesError(
            f"values above {white:,}, which is white in each {kind} of the images to train on"
        )
    return white
