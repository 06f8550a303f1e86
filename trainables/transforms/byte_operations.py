"""Apply torchvision's operations of RandAugment and TrivialAugment to bytes as they lie in memory.

Values are torchvision's to the last bit, as it has them of bytes with bilinear interpolation. It
wants channel after channel, and makes each intermediate image anew; here an image stays as it is,
pixel after pixel, and is changed in place. What is done in another way has the same result: a
translation by whole pixels is a copy, sums for sharpness are of whole numbers, and the grid of an
affine map is made coordinate by coordinate.

Each takes an image, (R, R, 3) uint8 and contiguous, and the operation's strength, with its sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch.nn.functional import grid_sample

Operation = Callable[[np.ndarray, float], None]

WHITE = 255
GREY = (0.2989, 0.587, 0.114)  # what red, green and blue count for


# --- geometry: what is moved in from outside is black -----------------------------------------


def translate_x(image: np.ndarray, pixels: float) -> None:
    """Move to the right by whole pixels."""
    to, source = _moved(len(image), int(pixels))
    image[:, to] = image[:, source].copy()
    image[:, : to.start] = image[:, to.stop :] = 0


def translate_y(image: np.ndarray, pixels: float) -> None:
    """Move down by whole pixels."""
    to, source = _moved(len(image), int(pixels))
    image[to] = image[source].copy()
    image[: to.start] = image[to.stop :] = 0


def _moved(side: int, by: int) -> tuple[slice, slice]:
    """Give the places that something of an image is moved to, and where it is from."""
    kept = max(0, side - abs(by))
    first, last = slice(0, kept), slice(side - kept, side)
    return (last, first) if by > 0 else (first, last)


def shear_x(image: np.ndarray, slope: float) -> None:
    """Move each row to the left, by ``slope`` of its distance from the top."""
    slope = math.tan(_angle(slope))
    _sample(image, ((1.0, slope, slope * len(image) / 2), (0.0, 1.0, 0.0)))


def shear_y(image: np.ndarray, slope: float) -> None:
    """Move each column up, by ``slope`` of its distance from the left."""
    slope, half = math.sin(_angle(slope)) / math.cos(_angle(slope)), len(image) / 2
    _sample(image, ((1.0, 0.0, 0.0), (slope, 1.0, (slope * half - half) + half)))


def _angle(slope: float) -> float:
    """Give a slope's angle, rounded as torchvision's, which is told it in degrees."""
    return math.radians(math.degrees(math.atan(slope)))


def rotate(image: np.ndarray, degrees: float) -> None:
    """Rotate about the centre, counter-clockwise."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    _sample(image, ((cos, -sin, 0.0), (sin, cos, 0.0)))


def _sample(image: np.ndarray, matrix: tuple[tuple[float, ...], ...]) -> None:
    """Take each pixel from where an affine map about the centre points to, bilinearly."""
    side = len(image)
    rows = torch.tensor(matrix) / torch.tensor(0.5 * side)
    grid = rows.mm(_positions(side)).view(1, 2, side, side).permute(0, 2, 3, 1)
    planes = _planes(image)[None]
    moved = grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    _set_planes(image, moved.round_()[0])


@lru_cache(maxsize=8)
def _positions(side: int) -> torch.Tensor:
    """Give x, y and 1 of each pixel, px from the centre: (3, R * R) float32."""
    line = torch.linspace((1.0 - side) * 0.5, (side - 1.0) * 0.5, side)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x.flatten(), y.flatten(), torch.ones(side * side)])


# --- colour -----------------------------------------------------------------------------------


def brightness(image: np.ndarray, more: float) -> None:
    """Blend with black."""
    _set(image, torch.from_numpy(image).mul(1.0 + more))


def contrast(image: np.ndarray, more: float) -> None:
    """Blend with the mean of the image in grey."""
    ratio = 1.0 + more
    planes = _planes(image)
    mean = _grey(planes).mean()
    _set_planes(image, planes.mul_(ratio).add_(mean, alpha=1.0 - ratio))


def color(image: np.ndarray, more: float) -> None:
    """Blend with the image in grey: saturation."""
    ratio = 1.0 + more
    planes = _planes(image)
    grey = _grey(planes)
    _set_planes(image, planes.mul_(ratio).add_(grey, alpha=1.0 - ratio))


def sharpness(image: np.ndarray, more: float) -> None:
    """Blend all but the margin with means over 3 x 3 px, in which the middle counts five times."""
    if len(image) <= 2:
        return
    rows = image.reshape(len(image), -1).astype(np.uint16)  # neighbours are three values apart
    middle = rows[1:-1, 3:-3]
    across = rows[:, :-6] + rows[:, 3:-3]
    across += rows[:, 6:]
    smooth = across[:-2] + across[1:-1]
    smooth += across[2:]
    smooth += 4 * middle
    smooth += 6  # rounds: the weights sum to 13
    smooth //= 13
    before, after = (torch.from_numpy(part.astype(np.float32)) for part in (middle, smooth))
    inner = image.reshape(len(image), -1)[1:-1, 3:-3]
    _set(inner, before.add_(after.sub_(before), alpha=-more))


# --- values by themselves, or by what the channel has of them ----------------------------------


def posterize(image: np.ndarray, bits: float) -> None:
    """Keep the first bits of each value."""
    image &= 256 - (1 << 8 - int(bits))


def solarize(image: np.ndarray, share: float) -> None:
    """Invert values from a share of white on."""
    inverted = image >= np.float32(WHITE * share)
    image ^= np.negative(inverted.view(np.uint8))


def auto_contrast(image: np.ndarray, _: float) -> None:
    """Stretch each channel to reach from black to white."""
    side = len(image)
    rows = image.reshape(side, -1)
    low = rows.min(axis=0).reshape(side, 3).min(axis=0).astype(np.float32)
    high = rows.max(axis=0).reshape(side, 3).max(axis=0).astype(np.float32)
    scale = (high - low) * np.float32(1 / WHITE)
    is_flat = high == low
    low[is_flat], scale[is_flat] = 0, 1
    values = rows.astype(np.float32)
    values -= np.tile(low, side)
    values /= np.tile(scale, side)
    _set(rows, torch.from_numpy(values))


def equalize(image: np.ndarray, _: float) -> None:
    """Make all values of a channel about as frequent, by Pillow's table."""
    rows = image.reshape(len(image), -1)
    numbers = rows + np.tile(np.array([0, 256, 512], np.uint16), len(image))
    signed = torch.from_numpy(numbers.view(np.int16)).view(-1)
    counts = torch.bincount(signed, minlength=3 * 256).numpy().reshape(3, 256)
    np.take(_equalizing(counts).ravel(), numbers, out=rows, mode="clip")


def _equalizing(counts: np.ndarray) -> np.ndarray:
    """Make tables of values from how often a channel has each: (3, 256) -> (3, 256) uint8."""
    brightest = 255 - (counts[:, ::-1] > 0).argmax(axis=1)
    others = counts.sum(axis=1) - counts[np.arange(3), brightest]
    step = (others // WHITE)[:, None]
    below = np.cumsum(counts, axis=1) - counts
    values = np.minimum((below + step // 2) // np.maximum(step, 1), WHITE)
    return np.where(step > 0, values, np.arange(256)).astype(np.uint8)


def identity(image: np.ndarray, _: float) -> None:
    """Leave the image as it is."""


# --- values as floats -------------------------------------------------------------------------


def _planes(image: np.ndarray) -> torch.Tensor:
    """Give red, green and blue one after the other: (3, R, R) float32."""
    planes = torch.empty(3, *image.shape[:2])
    for plane, channel in zip(planes.numpy(), np.moveaxis(image, 2, 0), strict=True):
        plane[:] = channel
    return planes


def _grey(planes: torch.Tensor) -> torch.Tensor:
    red, green, blue = planes
    grey: torch.Tensor = red.mul(GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])
    return grey.floor_()


def _set(image: np.ndarray, values: torch.Tensor) -> None:
    """Cut values off beyond black and white, and leave off what follows the point."""
    np.copyto(image, values.clamp_(0, WHITE).numpy(), casting="unsafe")


def _set_planes(image: np.ndarray, planes: torch.Tensor) -> None:
    for channel, plane in zip(np.moveaxis(image, 2, 0), planes, strict=True):
        _set(channel, plane)


OPERATIONS: dict[str, Operation] = {
    "Identity": identity,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Rotate": rotate,
    "Brightness": brightness,
    "Color": color,
    "Contrast": contrast,
    "Sharpness": sharpness,
    "Posterize": posterize,
    "Solarize": solarize,
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
}
