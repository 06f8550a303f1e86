"""Make the built-in image set: handwritten digits on photographs.

It is made of data in the scikit-learn package: 1,797 scans of handwritten digits (8x8 samples) and
two photographs (427x640 px), credited in ``SOURCES``. Each scan becomes one JPEG: a digit in a
colour, size, position and slant of its own, on a piece of a photograph.

Resolution decides how well the digit can be recognised. It lies wholly inside the central square,
so the test transform (short side resized, centre crop) never cuts it. Nothing but the stroke
depends on the class. No scan is in two splits; a writer may be, as scikit-learn does not say who
wrote a scan. Digits have a left and a right: train without horizontal flips.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps

from trainables.errors import UserError
from trainables.machine import available_cores

VERSION = 1  # raise it whenever the bytes made from the same spec change
MARKER = ".embedded.json"  # in a finished folder: version and spec that it was made from
SCANS = 1797
CLASSES = 10
MAX_THREADS = 8
SPLITS = ("train", "val", "test")
SOURCES = (
    "digits: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998",
    "china.jpg: flickr.com/photos/danielbuechele/6061409035, CC BY 2.0",
    "flower.jpg: flickr.com/photos/vultilion/6056698931, CC BY 2.0",
)

SHORT_SIDE_PX = (280, 341)  # of the picture, upper end excluded
ASPECT = (1.2, 1.45)  # long side / short side
PHOTO_PART = (0.4, 1.0)  # piece of a photograph / largest piece of that shape
DIGIT_PART = (0.33, 0.46)  # digit's longer side / picture's short side
MARGIN_PART = 0.15  # margin kept free inside the central square / its side
MAX_ROTATION_DEG = 8.0  # either way
MAX_SLANT = 0.12  # either way; sideways px per px of height
STROKE_LEVEL = (0.34, 0.46)  # ink share at a stroke's edge: lower is bolder
CONTRAST = (110.0, 190.0)  # luma of the stroke against the pixels under it, out of 255
MAX_TINT = 45.0  # out of 255, either way in each colour channel
OPACITY = (0.85, 1.0)
BLUR_PX = (0.3, 1.1)  # at the stroke's edge, in the finished picture
JPEG_QUALITY = (75, 92)  # upper end excluded

_SAMPLE_PX = 14  # working px for one sample of a scan: finer than any finished digit needs
_RIM_PX = 2  # around the stroke, so that its blurred edge stays inside the mask
_LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114])

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class EmbeddedSpec:
    """Sizes of the splits in pictures, all classes together, and the seed of the drawing."""

    train: int = 800
    val: int = 500
    test: int = 497
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One finished picture; ``box_px`` is the digit's (left, top, right, bottom) in it."""

    image: Image.Image
    box_px: tuple[int, int, int, int]
    jpeg_quality: int


@dataclass(frozen=True, kw_only=True)
class Material:
    """Scans (1797, 8, 8) with ink 0..16, their digits (1797,), and the photographs."""

    scans: Floats
    digits: NDArray[np.int64]
    photos: tuple[Image.Image, ...]


def make(
    folder: Path,
    spec: EmbeddedSpec = EmbeddedSpec(),
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Make ``folder/{train,val,test}/<digit>/<scan number>.jpg``, unless they are there.

    The folder appears whole or not at all. The same seed, split sizes and package versions give the
    same bytes.

    Args:
        progress: called with pictures done and pictures in all.

    Returns:
        ``folder``.

    Raises:
        UserError: the spec cannot be made, or the folder holds something else.
    """
    _check(spec)
    if _is_made(folder, spec):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:12]}"
    try:
        _write(scratch, spec, progress)
        try:
            os.rename(scratch, folder)  # replaces an empty folder, refuses a filled one
        except OSError:
            if not _is_made(folder, spec):  # otherwise another process was faster with the same
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def split(digits: NDArray[np.int64], spec: EmbeddedSpec) -> dict[str, list[int]]:
    """Choose the scan numbers of each split: none twice, classes as even as their scans allow."""
    rng = np.random.default_rng((spec.seed, SCANS))  # pictures draw with numbers below SCANS
    left = [rng.permutation(np.flatnonzero(digits == k)).tolist() for k in range(CLASSES)]
    numbers: dict[str, list[int]] = {}
    for name in SPLITS:
        counts = [0] * CLASSES
        numbers[name] = []
        for _ in range(getattr(spec, name)):
            open_classes = [k for k in range(CLASSES) if left[k]]
            k = min(open_classes, key=lambda c: (counts[c], -len(left[c]), c))
            numbers[name].append(left[k].pop())
            counts[k] += 1
    return numbers


def draw(scan: Floats, photos: tuple[Image.Image, ...], rng: np.random.Generator) -> Drawing:
    """Draw a scan (8, 8; ink 0..16) onto a piece of one of the photographs."""
    picture = background(photos, rng)
    wide, high = picture.size
    short = min(wide, high)
    mask = stroke_mask(scan, side_px=round(short * rng.uniform(*DIGIT_PART)), rng=rng)
    mask_high, mask_wide = mask.shape
    margin = math.ceil(short * MARGIN_PART)
    left = (wide - short) // 2 + int(rng.integers(margin, short - margin - mask_wide + 1))
    top = (high - short) // 2 + int(rng.integers(margin, short - margin - mask_high + 1))

    pixels = np.array(picture)
    under = pixels[top : top + mask_high, left : left + mask_wide].astype(np.float64)
    alpha = mask[..., None] * rng.uniform(*OPACITY)
    inked = under * (1 - alpha) + _stroke_colour(under, mask, rng) * alpha
    pixels[top : top + mask_high, left : left + mask_wide] = np.rint(inked).astype(np.uint8)
    return Drawing(
        image=Image.fromarray(pixels),
        box_px=(left, top, left + mask_wide, top + mask_high),
        jpeg_quality=int(rng.integers(*JPEG_QUALITY)),
    )


def background(photos: tuple[Image.Image, ...], rng: np.random.Generator) -> Image.Image:
    """Cut a piece of a photograph, perhaps mirrored, its light changed, at the picture's size.

    It is drawn before anything about the digit, so that it does not depend on the class.
    """
    photo = photos[int(rng.integers(len(photos)))]
    short = int(rng.integers(*SHORT_SIDE_PX))
    size = (round(short * rng.uniform(*ASPECT)), short)
    if rng.random() < 0.5:
        size = (size[1], size[0])
    largest = min(photo.width / size[0], photo.height / size[1])
    scale = largest * rng.uniform(*PHOTO_PART)
    wide, high = size[0] * scale, size[1] * scale
    left = rng.uniform(0, photo.width - wide)
    top = rng.uniform(0, photo.height - high)
    box = (left, top, min(left + wide, photo.width), min(top + high, photo.height))
    piece = photo.resize(size, Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.5:
        piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # Gain per channel shifts the colour too: two photographs give many unlike backgrounds.
    gain = rng.uniform(0.6, 1.15) * rng.uniform(0.9, 1.1, size=3)
    lift = rng.uniform(-10, 30)
    table = np.rint(np.arange(256) * gain[:, None] + lift).clip(0, 255).astype(int)
    return piece.point(table.ravel().tolist())


def stroke_mask(scan: Floats, side_px: int, rng: np.random.Generator) -> Floats:
    """Compute how much of each pixel the digit covers (0..1); the longer side is ``side_px``.

    A scan holds the ink share of 4x4 px blocks of a binary scan. Enlarged smoothly and cut at a
    level, it gives back a pen stroke with a clean outline instead of a blurred chequerboard.
    """
    ink = np.pad(scan * (255 / 16), 2).astype(np.uint8)  # room to turn and slant
    side = ink.shape[0] * _SAMPLE_PX
    large = Image.fromarray(ink).resize((side, side), Image.Resampling.BICUBIC)
    # Sharpened against the ink around it, thin strokes stay whole and loops of bold ones open.
    large = large.filter(ImageFilter.GaussianBlur(_SAMPLE_PX * 0.3))
    large = large.filter(ImageFilter.UnsharpMask(_SAMPLE_PX * 1.2, percent=120, threshold=0))
    turn = np.radians(rng.uniform(-MAX_ROTATION_DEG, MAX_ROTATION_DEG))
    slant = rng.uniform(-MAX_SLANT, MAX_SLANT)
    rotation = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    matrix = np.array([[1, slant], [0, 1]]) @ rotation
    shift = (np.eye(2) - matrix) @ [side / 2, side / 2]  # the middle stays where it is
    affine = (*matrix[0], shift[0], *matrix[1], shift[1])
    large = large.transform(large.size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    level = 255 * rng.uniform(*STROKE_LEVEL)
    edge = 12.0  # half the width of the outline's ramp, out of 255: sharp, yet anti-aliased
    cover = np.clip((np.asarray(large, dtype=np.float64) - level + edge) / (2 * edge), 0, 1)
    stroke = Image.fromarray(np.rint(cover * 255).astype(np.uint8))
    stroke = stroke.crop(stroke.getbbox())
    scale = (side_px - 2 * _RIM_PX) / max(stroke.size)
    size = (max(1, round(stroke.width * scale)), max(1, round(stroke.height * scale)))
    stroke = ImageOps.expand(stroke.resize(size, Image.Resampling.LANCZOS), border=_RIM_PX)
    stroke = stroke.filter(ImageFilter.GaussianBlur(rng.uniform(*BLUR_PX)))
    return np.asarray(stroke, dtype=np.float64) / 255


def _stroke_colour(under: Floats, mask: Floats, rng: np.random.Generator) -> Floats:
    """Pick an RGB colour (0..255) that stands out from the pixels (h, w, 3) under the stroke."""
    luma = under @ _LUMA_WEIGHTS
    mean = float(np.average(luma, weights=mask))
    spread = float(np.sqrt(np.average((luma - mean) ** 2, weights=mask)))
    # A busy background hides a stroke as a similar brightness does, so it needs more contrast.
    step = rng.uniform(*CONTRAST) + spread
    brighter = rng.random() < 0.5
    if step > (255 - mean if brighter else mean):
        brighter = mean < 127.5  # the side with more room
    grey = np.clip(mean + (step if brighter else -step), 0, 255)
    tint = rng.uniform(-MAX_TINT, MAX_TINT, size=3)
    return np.asarray(np.clip(grey + tint - tint @ _LUMA_WEIGHTS, 0, 255), dtype=np.float64)


@lru_cache(maxsize=1)
def _material() -> Material:
    # Imported late: it takes a second, which a call on a finished folder does not need.
    from sklearn.datasets import load_digits, load_sample_image

    scans = load_digits()
    photos = (load_sample_image(name) for name in ("china.jpg", "flower.jpg"))
    return Material(
        scans=np.asarray(scans.images, dtype=np.float64),
        digits=np.asarray(scans.target, dtype=np.int64),
        photos=tuple(Image.fromarray(np.asarray(photo)) for photo in photos),
    )


def _check(spec: EmbeddedSpec) -> None:
    """Raise a UserError where the spec cannot be made."""
    sizes = [getattr(spec, name) for name in SPLITS]
    given = "train {}, val {}, test {}".format(*sizes)
    if sum(sizes) > SCANS:
        raise UserError(f"{given}: {sum(sizes)} in sum, but there are {SCANS} scans: ask for fewer")
    if min(sizes) < CLASSES:
        raise UserError(f"{given}: every split needs {CLASSES} or more, one for each class")
    if spec.seed < 0:
        raise UserError(f"seed {spec.seed}: it must be 0 or more")


def _description(spec: EmbeddedSpec) -> dict[str, Any]:
    return {"made_by": "sweeps.embedded", "version": VERSION, "spec": asdict(spec)}


def _is_made(folder: Path, spec: EmbeddedSpec) -> bool:
    """Whether the folder is finished, and not missing or empty.

    Raises:
        UserError: it holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    expected = _description(spec)
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        actual = {key: marker[key] for key in expected}
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(f"{folder} is no embedded image set: name another folder") from None
    advice = "name another folder or delete this one"
    if actual != expected:
        raise UserError(f"{folder} is an embedded image set of other settings: {advice}")
    for name in SPLITS:
        count, expected_count = len(list((folder / name).glob("*/*.jpg"))), getattr(spec, name)
        if count != expected_count:
            raise UserError(
                f"{folder / name} holds {count} images instead of {expected_count}: {advice}"
            )
    return True


def _write(folder: Path, spec: EmbeddedSpec, progress: Callable[[int, int], None] | None) -> None:
    material = _material()
    jobs: list[tuple[int, Path]] = []
    for name, numbers in split(material.digits, spec).items():
        for k in range(CLASSES):
            (folder / name / str(k)).mkdir(parents=True)
        for number in numbers:
            jobs.append((number, folder / name / f"{material.digits[number]}/{number:04d}.jpg"))

    def save(job: tuple[int, Path]) -> None:
        number, path = job
        rng = np.random.default_rng((spec.seed, number))
        drawing = draw(material.scans[number], material.photos, rng)
        drawing.image.save(path, quality=drawing.jpeg_quality)

    with ThreadPoolExecutor(max_workers=min(MAX_THREADS, available_cores())) as pool:
        for done, _ in enumerate(pool.map(save, jobs), start=1):
            if progress is not None:
                progress(done, len(jobs))
    marker = json.dumps({**_description(spec), "sources": SOURCES}, indent=2)
    (folder / MARKER).write_text(marker + "\n", encoding="utf-8")
