"""What a resolution means: resize sides, map sides, apparent sizes. Pure arithmetic, px throughout.

FixRes (Touvron et al., arXiv:1906.06423, section 3): a training crop of area share sigma^2 that is
resized to K_train shows an object at K_train/sigma times its share of the image, a test image
resized to K_image at K_image times. So objects look smaller in testing, by sigma K_image/K_train.
"""

from __future__ import annotations

import math

import numpy as np

STRIDE = 32  # of every EfficientNet
SMALLEST = 32  # one feature-map position
TEST_CROP_PCT = 1.0  # FixEfficientNet's protocol: the whole short side

_TRIES = 10  # of torchvision's RandomResizedCrop
_RUNGS = 4
_EQUALISING_RUNG = 2
_LEAST_STEP = 1.1  # closer rungs tell little apart
_MULTIPLE = 4  # of the published best resolutions; many (420, 472, 680) are none of STRIDE


def feature_side(res: int) -> int:
    """Side of the last feature map; "same" padding rounds up."""
    return math.ceil(res / STRIDE)


def resize_side(test_res: int, crop_pct: float) -> int:
    """Short side to resize to, before the centre crop of ``test_res`` (timm's rule)."""
    return math.floor(test_res / crop_pct)


def expected_side_share(
    scale: tuple[float, float], ratio: tuple[float, float], aspect: float
) -> float:
    """E[sigma], the square root of the share of the area that RandomResizedCrop keeps.

    torchvision draws an area share s, uniform, and a ratio r, log-uniform, and takes the box if it
    fits: s <= min(aspect/r, r/aspect). After ten failures it takes the largest centred box within
    the ratios. Exact but for the rounding of boxes to whole pixels: in closed form over s, by
    quadrature over log r.

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
    tries = sum(fails**i for i in range(_TRIES))  # expected number of tries made
    fallback = min(1.0, aspect / ratio[0], ratio[1] / aspect)
    return float(weight @ kept) * tries + fails**_TRIES * math.sqrt(fallback)


def _quadrature(
    scale: tuple[float, float], ratio: tuple[float, float], log_aspect: float
) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes over log r and weights of sum 1.

    One piece between any two ratios at which the largest fitting share has a kink or enters or
    leaves ``scale``: within a piece the integrands are smooth.
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
    """Expected apparent size of objects in testing over that in training.

    In testing the short side is resized to test_res/crop_pct, which enlarges an oblong image by
    sqrt(long/short) over a square one of its area.

    Args:
        train_res, test_res: px.
        scale, ratio: of RandomResizedCrop.
        crop_pct: side of the test's centre crop over the resized short side.
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
    """The test resolution, px, not rounded, at which objects look as large as in training."""
    at_train_res = object_size_ratio(
        train_res, train_res, scale=scale, ratio=ratio, crop_pct=crop_pct, aspect=aspect
    )
    return train_res / at_train_res


def ladder(
    train_res: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    crop_pct: float,
    aspect: float,
) -> tuple[int, ...]:
    """Test resolutions to try, px, ascending: a geometric ladder from ``train_res``.

    The third of four is the equalising one, or steps are of a tenth where that is close or below.
    A prior and not the answer: the published best ones of small EfficientNets lie near it or above,
    those of large ones, trained near the images' own size, below. The sweep measures.
    """
    equal = equalising_test_res(train_res, scale, ratio, crop_pct, aspect)
    step = max((equal / train_res) ** (1 / _EQUALISING_RUNG), _LEAST_STEP)
    above = (_MULTIPLE * round(train_res * step**i / _MULTIPLE) for i in range(1, _RUNGS))
    return tuple(sorted({max(SMALLEST, res) for res in (train_res, *above)}))
