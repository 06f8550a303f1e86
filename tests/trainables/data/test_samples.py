"""Samples of more than eight bits: which value is white, and the pixels that come of it."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.trainables.data.deep_images import (
    COLOUR,
    COLOUR_ALPHA,
    GREY,
    GREY_ALPHA,
    chunk,
    png,
    tiff,
)
from trainables.data.pixels import BadImageError, decode, to_rgb
from trainables.data.samples import Samples, shared_whites, white_notes

WHITES = (255, 1023, 4095, 16383, 65535)
SIZE = (12, 15)


def samples(white, *bands, seed=0):
    """Values of which the largest is the white."""
    values = np.random.default_rng(seed).integers(0, white + 1, (*SIZE, *bands))
    values.flat[0] = white
    return values.astype(np.uint16)


def saved(values, kind, **options):
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, **options)
    return file.getvalue()


def in_eight_bits(values, white):
    return np.floor(values.astype(float) * 255 / white + 0.5)


GREY_FILES = {
    "PNG": lambda v: png(v, GREY),
    "TIFF of uint16": lambda v: tiff(v),
    "TIFF of uint16, big endian": lambda v: tiff(v, order=">"),
    "TIFF of uint16, deflated": lambda v: tiff(v, deflated=True),
    "TIFF of uint32": lambda v: tiff(v.astype(np.uint32)),
    "TIFF of int32": lambda v: tiff(v.astype(np.int32)),
    "PGM": lambda v: saved(v, "PPM"),
    "JPEG 2000": lambda v: saved(v, "JPEG2000", irreversible=False),
}


@pytest.mark.parametrize("white", WHITES)
@pytest.mark.parametrize("kind", GREY_FILES)
def test_grey_fills_the_range_of_its_values(kind, white):
    values = samples(white)
    pixels = to_rgb(GREY_FILES[kind](values), 1024)
    np.testing.assert_array_equal(pixels, in_eight_bits(values, white)[..., None].repeat(3, 2))


def test_grey_of_signed_sixteen_bits_fills_the_range_of_its_values():
    values = samples(4095).astype(np.int16)
    pixels = to_rgb(tiff(values), 1024)
    np.testing.assert_array_equal(pixels[..., 0], in_eight_bits(values, 4095))
    values[3, 3] = -1
    with pytest.raises(BadImageError, match=r"outside of 0\.\.65535"):
        to_rgb(tiff(values), 1024)


COLOUR_FILES = {
    "PNG": lambda v: png(v, COLOUR),
    "TIFF": lambda v: tiff(v),
    "TIFF, big endian": lambda v: tiff(v, order=">"),
    "TIFF, deflated": lambda v: tiff(v, deflated=True),
    "TIFF, big endian, deflated": lambda v: tiff(v, order=">", deflated=True),
    "PPM": lambda v: b"P6\n15 12\n65535\n" + v.astype(">u2").tobytes(),
}


@pytest.mark.parametrize("white", WHITES[:-1])
@pytest.mark.parametrize("kind", COLOUR_FILES)
def test_colours_fill_the_range_of_their_values(kind, white):
    values = samples(white, 3)
    pixels = to_rgb(COLOUR_FILES[kind](values), 1024)
    np.testing.assert_array_equal(pixels, in_eight_bits(values, white))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF, deflated"])
def test_colours_of_the_full_range_are_those_that_pillow_reads(kind):
    data = COLOUR_FILES[kind](samples(65535, 3))
    np.testing.assert_array_equal(to_rgb(data, 1024), Image.open(io.BytesIO(data)))


@pytest.mark.parametrize("alpha", [4095, 65535])
@pytest.mark.parametrize("bands", [1, 3])
def test_alpha_of_twelve_or_sixteen_bits_is_opaque(bands, alpha):
    values = np.concatenate([samples(4095, bands), np.full((*SIZE, 1), alpha)], axis=2)
    values[5, 5, -1] = 0
    data = png(values, GREY_ALPHA if bands == 1 else COLOUR_ALPHA)
    wanted = in_eight_bits(values[..., :-1], 4095)
    wanted[5, 5] = 255  # white shows through
    np.testing.assert_array_equal(to_rgb(data, 1024), np.broadcast_to(wanted, (*SIZE, 3)))


def test_a_file_may_state_its_white():
    dark = samples(700)
    pgm = b"P5\n15 12\n4095\n" + dark.astype(">u2").tobytes()
    for data in (tiff(dark, more={281: 4095}), pgm):
        wanted = dark.astype(int) * 255 / 4095
        np.testing.assert_allclose(to_rgb(data, 1024)[..., 0], wanted, atol=0.51)
        read = decode(data, 1024).samples
        assert read is not None and read.stated
    # A largest value that is no range's is that of this picture, and sBIT says how exact values
    # are, which fill the range: neither tells what is white.
    for data in (tiff(dark, more={281: 700}), png(dark, GREY, chunk(b"sBIT", b"\x0c"))):
        assert decode(data, 1024).samples is not None
        np.testing.assert_array_equal(to_rgb(data, 1024)[..., 0], in_eight_bits(dark, 1023))


def test_twelve_bits_packed_into_a_tiff_are_their_own_range():
    values = samples(900)
    pairs = values.reshape(12, 15)[:, :14].reshape(12, 7, 2).astype(np.uint16)
    first, second = pairs[..., 0], pairs[..., 1]
    packed = np.stack([first >> 4, ((first & 15) << 4) | (second >> 8), second & 255], axis=-1)
    rows = packed.astype(np.uint8).tobytes()
    data = tiff(np.zeros((12, 14), np.uint16), more={258: 12})
    data = data[: -12 * 14 * 2] + rows
    np.testing.assert_array_equal(
        to_rgb(data, 1024)[..., 0], in_eight_bits(values.reshape(12, 15)[:, :14], 4095)
    )


def test_zero_is_white_where_a_tiff_says_so():
    values = samples(4095)
    pixels = to_rgb(tiff(values, more={262: 0}), 1024)
    np.testing.assert_array_equal(pixels[..., 0], in_eight_bits(4095 - values, 4095))


def test_separate_planes_of_sixteen_bits_are_refused():
    data = tiff(samples(65535, 3), more={284: 2})
    with pytest.raises(BadImageError, match="separate planes"):
        to_rgb(data, 1024)


def test_a_white_that_is_given_holds_for_its_kind():
    dark = samples(700)
    whites = {"16-bit grey PNG": 4095, "16-bit colour PNG": 255}
    for data, white in ((png(dark, GREY), 4095), (tiff(dark), 1023)):
        pixels = to_rgb(data, 1024, whites)
        np.testing.assert_array_equal(pixels[..., 0], in_eight_bits(dark, white))
    with pytest.raises(BadImageError, match="values above 255, which is white in each 16-bit col"):
        to_rgb(png(samples(700, 3), COLOUR), 1024, whites)


def test_the_white_of_a_kind_holds_its_largest_value():
    read = [
        None,
        Samples("16-bit grey PNG", 900, 1023, stated=False),
        Samples("16-bit grey PNG", 3000, 4095, stated=False),
        Samples("16-bit grey TIFF", 60000, 65535, stated=True),
        Samples("32-bit grey TIFF", 200, 255, stated=False),
    ]
    assert shared_whites(read) == {"16-bit grey PNG": 4095, "32-bit grey TIFF": 255}
    assert white_notes(read)[-2:] == [
        "1 image(s) are 16-bit grey TIFF: 65,535 is white in them, as the file says.",
        "1 image(s) are 32-bit grey TIFF: 255 is white in them, the least range that holds their"
        " values.",
    ]
