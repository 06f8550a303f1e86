"""Augment images mildly for the fix: the test transform, slightly varied.

FixRes (Touvron et al., arXiv:1906.06423) has best results where the last layers are trained on
images that are prepared as in testing but for a mirroring, a little colour jitter and a shift of
the crop along the width: apparent sizes stay those of testing, and the few images of a small
data set count for more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from trainables.transforms.centre_crop import is_too_long
from trainables.transforms.eval_transform import EvalTransform

MAX_JITTER = 0.05  # factors lie between 1 - MAX_JITTER and 1 + MAX_JITTER
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@dataclass(frozen=True, kw_only=True)
class MildDraw:
    """The random choices for one image."""

    flip: bool
    factors: tuple[float, float, float]  # brightness, contrast, saturation
    order: tuple[int, int, int]  # in which the factors are applied: indices into them
    shift: int  # px that the crop lies to the right of the centre


@dataclass(frozen=True, kw_only=True)
class MildDraws:
    """The random choices for N images; ``mild_draws[i]`` is image i's."""

    flip: np.ndarray  # (N,) bool
    factors: np.ndarray  # (N, 3) float64
    order: np.ndarray  # (N, 3) int64
    shift: np.ndarray  # (N,) int64: from 0 to the slack on the narrower side, either way

    def __len__(self) -> int:
        return len(self.flip)

    def __getitem__(self, i: int) -> MildDraw:
        return MildDraw(
            flip=bool(self.flip[i]),
            factors=tuple(self.factors[i].tolist()),
            order=tuple(self.order[i].tolist()),
            shift=int(self.shift[i]),
        )


def draw_mild(
    sizes: np.ndarray, transform: EvalTransform, hflip: float, rng: np.random.Generator
) -> MildDraws:
    """Draw all random choices beforehand, so that the images can be rendered by any threads.

    The classifier learns from several views of each image: view v of a split is that of the
    generator ``default_rng((seed, v))``.

    Args:
        sizes: (N, 2) height and width of the stored images, px.
        transform: the test transform; with ``sizes`` it says how far a crop can move.
        hflip: probability of a mirroring.
    """
    count = len(sizes)
    widths = np.array([transform.resized_size(h, w)[0] for h, w in sizes.tolist()], np.int64)
    slack = np.maximum(0, widths - transform.test_res) // 2
    return MildDraws(
        flip=rng.random(count) < hflip,
        factors=rng.uniform(1 - MAX_JITTER, 1 + MAX_JITTER, (count, 3)),
        order=rng.permuted(np.tile(np.arange(3), (count, 1)), axis=1),
        shift=rng.choice([-1, 1], count) * rng.integers(0, slack + 1),
    )


def mild_transform(image: np.ndarray, transform: EvalTransform, draw: MildDraw) -> np.ndarray:
    """Resize as in testing, mirror, jitter the colours, crop at a shift from the centre.

    The colours change as in torchvision's ColorJitter on PIL images, over the whole picture: the
    mean that contrast is relative to is taken before the crop. Of a picture that is too long to be
    resized as a whole (:mod:`trainables.transforms.centre_crop`) only the crop is jittered.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (test_res, test_res, 3) uint8.
    """
    too_long = is_too_long(transform.resized_size(*image.shape[:2]))
    if too_long:
        shift = -draw.shift if draw.flip else draw.shift
        picture = Image.fromarray(transform.resized_crop(Image.fromarray(image), shift))
    else:
        picture = transform.resized(image)
    if draw.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for i in draw.order:
        picture = _ENHANCERS[i](picture).enhance(draw.factors[i])
    return np.asarray(picture) if too_long else transform.cropped(picture, draw.shift)
