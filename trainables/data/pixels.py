"""Decode the bytes of one image file into RGB pixels.

Pixels come out upright (EXIF), in eight bits, on white where they are transparent. A finished
model brings this module along: it imports numpy and Pillow alone, and pillow-heif where that is.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from trainables.data import samples
from trainables.data.samples import Samples

# Not all of Pillow's plug-ins: EPS starts Ghostscript, others take any bytes for an image.
_ALLOWED = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
Image.init()
_FORMATS = tuple(name for name in _ALLOWED if name in Image.OPEN)

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# What is often found under an image's name, by how it begins, and what helps.
_FOREIGN = {
    b"\xff\x0a": "JPEG XL, which is not read here: convert it to PNG or JPEG",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL, which is not read here: convert it to PNG or JPEG",
    b"version https://git-lfs": "a pointer of Git LFS, not the image: run git lfs pull",
    b"<!doctype html": "a web page, not an image: download it again",
    b"<html": "a web page, not an image: download it again",
}
_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_HEIC_REASON = "HEIC, which needs pillow-heif: pip install pillow-heif, or convert it to JPEG"
_STRIP_PIXELS = 1 << 24  # that are laid on white at a time


class BadImageError(Exception):
    """Bytes that are no readable image; the message is the reason, in a few words."""


class Picture(NamedTuple):
    """A decoded image."""

    rgb: np.ndarray  # (H, W, 3) uint8 RGB, C-contiguous
    reduced: bool  # from more pixels
    samples: Samples | None  # how more than eight bits were scaled; None: there were eight
    has_more: bool  # frames or pages, which are not read


def to_rgb(data: bytes, side: int, whites: Mapping[str, int] | None = None) -> np.ndarray:
    """Decode an image's pixels, (H, W, 3) uint8 RGB; see :func:`decode`."""
    return decode(data, side, whites).rgb


def decode(data: bytes, side: int, whites: Mapping[str, int] | None = None) -> Picture:
    """Decode an image (the first frame of an animation).

    Args:
        data: the bytes of an image file.
        side: px; an image whose short side is larger is reduced to it, antialiased.
        whites: the value that is white by kind of image, where samples have more than eight bits
            (:mod:`trainables.data.samples`).

    Raises:
        BadImageError: no known image format, truncated, corrupt, too large, or of unknown range.
    """
    if not data:
        raise BadImageError("empty file")
    try:
        with _open(data) as image:
            reduced = min(image.size) > side
            layout = samples.layout_of(image)
            # JPEG decodes faster at 1/2, 1/4 or 1/8; at twice the target or more, that is not seen.
            image.draft(None, _reduced(image.size, 2 * side))
            image.load()
            turn = _UPRIGHT.get(_orientation(image))
            read: Samples | None
            if samples.is_deep_grey(image):
                grey, read = samples.scale_grey(image, layout, whites or {})
                rgb = grey.convert("RGB")
            else:
                eight, read = samples.scale_colour(
                    image, layout, whites or {}, data, lambda: _open(data)
                )
                rgb = _eight_bit_rgb(eight)
            has_more = _has_more(image)
        if min(rgb.size) > side:
            rgb = rgb.resize(_reduced(rgb.size, side), Image.Resampling.LANCZOS)
        if turn is not None:
            rgb = rgb.transpose(turn)
        return Picture(np.ascontiguousarray(rgb, dtype=np.uint8), reduced, read, has_more)
    except BadImageError:
        raise
    except samples.BadSamplesError as error:
        raise BadImageError(str(error)) from error
    except MemoryError as error:
        raise BadImageError("does not fit into memory") from error
    except Exception as error:  # on hostile bytes, Pillow's plug-ins raise nearly anything
        raise BadImageError(_reason(error)) from error


def reads_heic() -> bool:
    """Whether pillow-heif is there, so that HEIC is read."""
    return importlib.util.find_spec("pillow_heif") is not None


def stored_bytes(data: bytes, side: int) -> int:
    """Count the bytes that :func:`to_rgb` would return, by the header; 0 where it is unreadable."""
    try:
        with _open(data) as image:
            width, height = _reduced(image.size, side)
            return 3 * width * height
    except Exception:  # the decoder will say what is wrong with it
        return 0


def _open(data: bytes) -> Image.Image:
    formats = _FORMATS
    if _is_heic(data):
        if not reads_heic():
            raise BadImageError(_HEIC_REASON)
        import pillow_heif

        pillow_heif.register_heif_opener()
        formats = ("HEIF",)
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        start = data[:64].lstrip().lower()
        kinds = (help_ for head, help_ in _FOREIGN.items() if start.startswith(head.lower()))
        raise BadImageError(next(kinds, "not an image of a known format")) from error


def _is_heic(data: bytes) -> bool:
    """Whether a file says that it is HEIC: by its brand, or where that is general by another."""
    if data[4:8] != b"ftyp":
        return False
    brand, more = data[8:12], data[16 : min(int.from_bytes(data[:4], "big"), 256)]
    others = {more[i : i + 4] for i in range(0, len(more), 4)}
    general = brand in (b"mif1", b"msf1") and not others & {b"avif", b"avis"}
    return brand in _HEIC_BRANDS or (general and bool(others & _HEIC_BRANDS))


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels (decompression bomb)"
    return " ".join(str(error).split()) or type(error).__name__


def _reduced(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Width and height with the short side at most `side` px."""
    short = min(size)
    if short <= side:
        return size
    width, height = (max(1, round(edge * side / short)) for edge in size)
    return width, height


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; read after loading, since TIFF and AVIF turn by themselves."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged EXIF is no reason to lose the image
        return 1


def _has_more(image: Image.Image) -> bool:
    """Whether there are more frames or pages; a camera's previews (MPO) are the same picture."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged second frame is no reason to lose the first
        return True


def _eight_bit_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadImageError("floating-point pixels, whose range is unknown")
    if not image.has_transparency_data:
        return image.convert("RGB")
    # In strips: whole, a few copies of four bytes a pixel would be there at once.
    rgb = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        coloured = image.crop(box).convert("RGBA")
        white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
        rgb.paste(Image.alpha_composite(white, coloured).convert("RGB"), box)
    return rgb
