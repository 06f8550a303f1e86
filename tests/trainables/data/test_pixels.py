"""Bytes of image files, decoded upright, in eight bits and RGB."""

import importlib
import io
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from trainables.data.pixels import BadImageError, stored_bytes, to_rgb

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
HEIGHT, WIDTH = 48, 64


def quadrants(colours, height=HEIGHT, width=WIDTH):
    """Top left, top right, bottom left, bottom right; (H, W, 3) uint8, or (H, W) for greys."""
    grid = np.array(colours).reshape(2, 2, -1)
    return grid.repeat(height // 2, axis=0).repeat(width // 2, axis=1).squeeze()


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def seen(pixels):
    """The colours in the middle of the four quadrants."""
    height, width, _ = pixels.shape
    rows, columns = (height // 4, 3 * height // 4), (width // 4, 3 * width // 4)
    return [tuple(pixels[row, column].tolist()) for row in rows for column in columns]


def close(found, wanted, tolerance=6):
    return np.abs(np.array(found) - np.array(wanted)).max() <= tolerance


def coloured():
    return Image.fromarray(quadrants([RED, GREEN, BLUE, YELLOW]).astype(np.uint8))


def noise():
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "JPEG", "WEBP", "GIF"])
def test_formats_keep_colours_and_size(kind):
    pixels = to_rgb(saved(coloured(), kind), 1024)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert close(seen(pixels), [RED, GREEN, BLUE, YELLOW])


# What is stored for an upright image, by the definition of the EXIF tag.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("side", [1024, 24])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(orientation, kind, side):
    upright = quadrants([RED, GREEN, BLUE, YELLOW]).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    pixels = to_rgb(saved(image, kind, exif=exif.tobytes()), side)
    assert pixels.shape == ((HEIGHT, WIDTH, 3) if side == 1024 else (24, 32, 3))
    assert close(seen(pixels), [RED, GREEN, BLUE, YELLOW])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_is_ignored():
    data = saved(coloured(), "JPEG", exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xffgarbage")
    assert close(seen(to_rgb(data, 1024)), [RED, GREEN, BLUE, YELLOW])


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey(kind):
    image = Image.fromarray(quadrants([0, 100, 200, 255]).astype(np.uint8))
    wanted = [BLACK, (100,) * 3, (200,) * 3, WHITE]
    assert close(seen(to_rgb(saved(image, kind), 1024)), wanted, 2)


def test_one_bit():
    image = Image.fromarray(quadrants([0, 255, 255, 0]).astype(np.uint8)).convert("1")
    assert seen(to_rgb(saved(image, "PNG"), 1024)) == [BLACK, WHITE, WHITE, BLACK]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_is_scaled_not_clipped(kind):
    values = quadrants([0, 100 * 257, 200 * 257 + 1, 65535]).astype(np.uint16)
    wanted = [BLACK, (100,) * 3, (200,) * 3, WHITE]
    assert seen(to_rgb(saved(Image.fromarray(values), kind), 1024)) == wanted


def test_big_endian_sixteen_bit_tiff():
    values = quadrants([0, 100 * 257, 200 * 257, 65535]).astype(">u2")
    image = Image.frombytes("I;16B", (WIDTH, HEIGHT), values.tobytes())
    assert seen(to_rgb(saved(image, "TIFF"), 1024))[1:3] == [(100,) * 3, (200,) * 3]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind):
    inks = [(0, 255, 255, 0), (255, 0, 255, 0), (0, 0, 0, 255), (0, 0, 0, 0)]
    image = Image.fromarray(quadrants(inks).astype(np.uint8), "CMYK")
    data = saved(image, kind)
    assert (b"Adobe" in data) == (kind == "JPEG")  # whose inks are stored inverted
    assert close(seen(to_rgb(data, 1024)), [RED, GREEN, BLACK, WHITE], 8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_is_white(mode, kind):
    image = Image.new("RGB", (WIDTH, HEIGHT), BLACK)
    image.putalpha(Image.fromarray(quadrants([255, 0, 128, 255]).astype(np.uint8)))
    data = saved(image.convert(mode), kind)
    assert close(seen(to_rgb(data, 1024)), [BLACK, WHITE, (127,) * 3, BLACK], 2)


def paletted():
    image = Image.fromarray(quadrants([0, 1, 2, 3]).astype(np.uint8), "P")
    image.putpalette([*RED, *GREEN, *BLUE, *YELLOW])
    return image


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_palette(kind):
    assert seen(to_rgb(saved(paletted(), kind), 1024)) == [RED, GREEN, BLUE, YELLOW]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_with_transparency(kind):
    data = saved(paletted(), kind, transparency=1)
    assert seen(to_rgb(data, 1024)) == [RED, WHITE, BLUE, YELLOW]


def test_transparent_colour_of_rgb_and_grey():
    assert seen(to_rgb(saved(coloured(), "PNG", transparency=BLUE), 1024))[2] == WHITE
    grey = Image.fromarray(quadrants([0, 50, 100, 150]).astype(np.uint8))
    assert seen(to_rgb(saved(grey, "PNG", transparency=50), 1024))[1] == WHITE


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame(kind):
    later = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in (BLACK, WHITE)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(coloured(), kind, save_all=True, append_images=later, **options)
    assert seen(to_rgb(data, 1024)) == [RED, GREEN, BLUE, YELLOW]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_reduction_keeps_shape_and_is_antialiased(kind):
    checkers = (np.indices((600, 800)).sum(axis=0) % 2 * 255).astype(np.uint8)
    pixels = to_rgb(saved(Image.fromarray(checkers), kind, quality=95), 60)
    assert pixels.shape == (60, 80, 3)
    assert close(pixels, 127, 4)
    assert to_rgb(saved(Image.fromarray(checkers), kind), 600).shape == (600, 800, 3)


def test_reduced_jpeg_equals_reduction_of_the_whole():
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    data = saved(smooth.resize((1600, 1200), Image.Resampling.BICUBIC), "JPEG", quality=95)
    whole = Image.open(io.BytesIO(data)).resize((160, 120), Image.Resampling.LANCZOS)
    assert close(to_rgb(data, 120).astype(int), np.asarray(whole).astype(int), 3)


HEIC = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic"


def huge_png():
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not an image at all", "known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "known format"),
        (saved(coloured(), "JPEG")[:400], "Truncated"),
        (saved(noise(), "JPEG")[:-300], "truncated"),
        (saved(coloured(), "PNG")[:-40], "truncated"),
        (saved(coloured(), "PNG")[:20], "image|Truncated"),
        (huge_png(), "bomb"),
        (saved(Image.new("F", (4, 4), 0.5), "TIFF"), "floating"),
        (HEIC, "HEIC, which needs pillow-heif: pip install pillow-heif, or convert it to JPEG"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\xff\x0a and more", "JPEG XL, which is not read here: convert it to PNG"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>", "a web page, not an image"),
        (saved(Image.fromarray(np.full((4, 4), 70000, np.int32)), "TIFF"), "65535"),
    ],
)
def test_bad_bytes_are_refused_with_a_reason(data, reason):
    with pytest.raises(BadImageError, match=reason):
        to_rgb(data, 1024)


HEIC_READER = """
from PIL import Image, ImageFile

class HeifFile(ImageFile.ImageFile):
    format = "HEIF"

    def _open(self):
        self._mode, self._size, self.tile = "RGB", (2, 3), []
        self._im = Image.new("RGB", (2, 3), (10, 20, 30)).im

def register_heif_opener():
    Image.register_open("HEIF", HeifFile, lambda head: head[4:8] == b"ftyp")
"""


def test_heic_is_read_where_pillow_heif_is(tmp_path, monkeypatch):
    (tmp_path / "pillow_heif.py").write_text(HEIC_READER)
    monkeypatch.syspath_prepend(tmp_path)
    # What is imported here stays in sys.modules: the tests after this one must not find it.
    monkeypatch.delitem(sys.modules, "pillow_heif", raising=False)
    reader = importlib.import_module("pillow_heif")
    del sys.modules["pillow_heif"]
    monkeypatch.setitem(sys.modules, "pillow_heif", reader)
    assert (to_rgb(HEIC, 1024) == (10, 20, 30)).all()
    avif = HEIC.replace(b"heic", b"avif").replace(b"mif1", b"avis")
    with pytest.raises(BadImageError) as refused:
        to_rgb(avif, 1024)
    assert "HEIC" not in str(refused.value)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_strips_that_are_laid_on_white_make_the_whole(monkeypatch, mode):
    see_through = Image.merge("RGBA", [*noise().split(), noise().getchannel("R")])
    image = see_through.convert(mode) if mode != "P" else noise().quantize(16)
    data = saved(image, "PNG", **({"transparency": 3} if mode == "P" else {}))
    whole = to_rgb(data, 1024)
    monkeypatch.setattr("trainables.data.pixels._STRIP_PIXELS", 5 * WIDTH)
    np.testing.assert_array_equal(to_rgb(data, 1024), whole)
    assert (whole != np.asarray(noise())).any()


def test_stored_bytes_tells_the_decoded_size():
    data = saved(coloured(), "JPEG")
    assert stored_bytes(data, 1024) == to_rgb(data, 1024).nbytes
    assert stored_bytes(data, 24) == 24 * 32 * 3
    assert stored_bytes(b"nothing", 24) == 0
