"""Decode the bytes of one image file into RGB pixels.

Pixels come out upright (EXIF), in eight bits, on white where they are transparent. A finished
model brings this module along: it imports numpy and Pillow alone.
"""

import io

import numpy as np
from PIL import Image, UnidentifiedImageError

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


class BadImageError(Exception):
    """Bytes that are no readable image; the message is the reason, in a few words."""


def to_rgb(data: bytes, side: int) -> np.ndarray:
    """Decode an image (the first frame of an animation).

    Args:
        data: the bytes of an image file.
        side: px; an image whose short side is larger is reduced to it, antialiased.

    Returns:
        (H, W, 3) uint8 RGB, C-contiguous.

    Raises:
        BadImageError: no known image format, truncated, corrupt, too large, or of unknown range.
    """
    if not data:
        raise BadImageError("empty file")
    try:
        with _open(data) as image:
            # JPEG decodes faster at 1/2, 1/4 or 1/8; at twice the target or more, that is not seen.
            image.draft(None, _reduced(image.size, 2 * side))
            image.load()
            turn = _UPRIGHT.get(_orientation(image))
            rgb = _eight_bit_rgb(image)
        if min(rgb.size) > side:
            rgb = rgb.resize(_reduced(rgb.size, side), Image.Resampling.LANCZOS)
        if turn is not None:
            rgb = rgb.transpose(turn)
        return np.ascontiguousarray(rgb, dtype=np.uint8)
    except BadImageError:
        raise
    except MemoryError as error:
        raise BadImageError("does not fit into memory") from error
    except Exception as error:  # on hostile bytes, Pillow's plug-ins raise nearly anything
        raise BadImageError(_reason(error)) from error


def stored_bytes(data: bytes, side: int) -> int:
    """Count the bytes that :func:`to_rgb` would return, by the header; 0 where it is unreadable."""
    try:
        with _open(data) as image:
            width, height = _reduced(image.size, side)
            return 3 * width * height
    except Exception:  # the decoder will say what is wrong with it
        return 0


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise BadImageError("not an image of a known format") from error


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


def _eight_bit_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _from_sixteen_bit(image).convert("RGB")
    if image.mode == "F":
        raise BadImageError("floating-point pixels, whose range is unknown")
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        white = Image.new("RGBA", coloured.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, coloured).convert("RGB")
    return image.convert("RGB")


def _from_sixteen_bit(image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255: Pillow's own conversion would clip."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadImageError("integer pixels outside of 0..65535, whose range is unknown")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
