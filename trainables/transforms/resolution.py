"""Relate resolutions to resize sides and apparent sizes: pure arithmetic, in px.

FixRes (Touvron et al., arXiv:1906.06423, section 3): a training crop of area share sigma^2 that is
resized to K_train shows an object at K_train/sigma times its share of the image, a test image
resized to K_image at K_image times. So objects look smaller in testing, by sigma K_image/K_train.
"""

from __future__ import annotations

import math

import numpy as np

from trainables.transforms.augmentation import CROP_TRIES

MIN_RES = 32  # the last feature map is down to one position
TEST_CROP_PCT = 1.0  # FixEfficientNet's protocol: the whole short side

LADDER_LENGTH = 4
EQUALISING_STEP = 2  # steps from the train resolution to the equalising one
MIN_STEP_FACTOR = 1.1  # results at closer resolutions differ little
# The published best resolutions are multiples of 4; many (420, 472, 680) are none of 32.
LADDER_MULTIPLE = 4


def resize_side(test_res: int, crop_pct: float) -> int:
    """Compute the short side to resize to, before the centre crop of ``test_res`` (timm's rule)."""
    return math.floor(test_res / crop_pct)


def expected_side_share(
    scale: tuple[float, float], ratio: tuple[float, float], aspect: float
) -> float:
    """Compute E[sigma], the expected share of the image's side that RandomResizedCrop keeps.

    sigma is the square root of the share of the area. torchvision draws an area share s, uniform,
    and a ratio r, log-uniform, and takes the box if it fits: s <= min(aspect/r, r/aspect). After
    ten failures it takes the largest centred box within the ratios. Exact but for the rounding of
    boxes to whole pixels: in closed form over s, by quadrature over log r.

    Args:
        scale: range of the area share, within (0, 1].
        ratio: range of the box's width over height.
        aspect: the image's width over height.
    """
    low, high = scale
    log_aspect = math.log(aspect)
    log_ratio, weight = _quadrature(scale, ratio, log_aspect)
    largest = np.exp(-np.abs(log_ratio - log_aspect))  # share that fits at this ratio
    if low == high:
        accepted = (low <= largest).astype(float)
        kept = accepted * math.sqrt(low)
    else:
        top = np.clip(largest, low, high)
        accepted = (top - low) / (high - low)
        kept = (top**1.5 - low**1.5) / (1.5 * (high - low))
    fails = 1 - float(weight @ accepted)
    tries = sum(fails**i for i in range(CROP_TRIES))  # expected number of boxes drawn
    fallback = min(1.0, aspect / ratio[0], ratio[1] / aspect)
    return float(weight @ kept) * tries + fails**CROP_TRIES * math.sqrt(fallback)


def _quadrature(
    scale: tuple[float, float], ratio: tuple[float, float], log_aspect: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes over log r and weights of sum 1.

    The range is cut where the largest fitting share has a kink or enters or leaves ``scale``:
    within each piece the integrands are smooth.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    if low == high:
        return np.array([low]), np.array([1.0])
    far, near = -math.log(scale[0]), -math.log(scale[1])
    kinks = log_aspect + np.array([-far, -near, 0, near, far])
    edges = np.concatenate(([low], np.clip(kinks, low, high), [high]))
    node, weight = np.polynomial.legendre.leggauss(16)
    start, width = edges[:-1, None], np.diff(edges)[:, None]
    nodes, weights = start + width * (node + 1) / 2, width * weight / 2 / (high - low)
    return nodes.ravel(), weights.ravel()


def object_size_ratio(
    train_res: float,
    test_res: float,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    crop_pct: float,
    aspect: float,
) -> float:
    """Compute the expected apparent size of objects in testing, over that in training.

    In testing the short side is resized to test_res/crop_pct, which enlarges an oblong image by
    sqrt(long/short) over a square one of its area.

    Args:
        train_res, test_res: px.
        scale, ratio: RandomResizedCrop's, as in :func:`expected_side_share`.
        crop_pct: side of the centre crop in testing over the resized short side.
        aspect: the images' width over height.
    """
    sigma = expected_side_share(scale, ratio, aspect)
    oblong = math.sqrt(max(aspect, 1 / aspect))
    return sigma * test_res / crop_pct / train_res * oblong


def equalising_test_res(
    train_res: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    crop_pct: float,
    aspect: float,
) -> float:
    """Find the test resolution, px, not rounded, at which objects look as large as in training."""
    at_train_res = object_size_ratio(
        train_res, train_res, scale=scale, ratio=ratio, crop_pct=crop_pct, aspect=aspect
    )
    return train_res / at_train_res


def equalising_crop_pct(
    train_res: int,
    test_res: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    aspect: float,
) -> float:
    """Find the crop ratio at which objects look as large at ``test_res`` as in training.

    The apparent size is in inverse proportion to the ratio. It is held between the smallest share
    of the side that a training crop keeps, below which most of a picture is cut off, and 1, above
    which there is no picture; and rounded to three decimals.
    """
    at_whole = object_size_ratio(
        train_res, test_res, scale=scale, ratio=ratio, crop_pct=1.0, aspect=aspect
    )
    return round(min(1.0, max(math.sqrt(scale[0]), at_whole)), 3)


def ladder(
    train_res: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    crop_pct: float,
    aspect: float,
) -> tuple[int, ...]:
    """Propose test resolutions to try, px, ascending: a geometric ladder from ``train_res``.

    The third of four is the equalising one, or each is a tenth above the last where the equalising
    one is close to ``train_res`` or below. It is a prior and not the answer: the published best
    test resolutions of small EfficientNets lie near the equalising one or above, those of large
    ones, trained near the images' own size, below.
    """
    equal = equalising_test_res(train_res, scale, ratio, crop_pct, aspect)
    step = max((equal / train_res) ** (1 / EQUALISING_STEP), MIN_STEP_FACTOR)
    above = (
        LADDER_MULTIPLE * round(train_res * step**i / LADDER_MULTIPLE)
        for i in range(1, LADDER_LENGTH)
    )
    return tuple(sorted({max(MIN_RES, res) for res in (train_res, *above)}))
