"""Mix the images of a batch in pairs, by timm's formulas: mixup and CutMix.

mixup (Zhang et al., arXiv:1710.09412) blends two images, CutMix (Yun et al., arXiv:1905.04899) puts
a box of one into the other; the label is mixed as the pixels are. As in timm's loaders a batch is
mixed as a whole: one choice of kind and share, and image i with the i-th from the end; and pixels
are rounded to bytes. timm draws from NumPy's global generator, which threads and workers share;
here each batch has a generator of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CUTMIX_SHARE = 0.5  # of batches, where there is mixup too: timm's switch_prob


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How the images of a batch are mixed."""

    share: float
    """What an image keeps of itself; the rest is its partner's."""
    box: tuple[slice, slice] | None
    """Rows and columns that are its partner's; None: the two are blended."""


def draw_mix(mixup: float, cutmix: float, side: int, rng: np.random.Generator) -> Mix:
    """Draw how a batch is mixed.

    Args:
        mixup, cutmix: the parameter of the beta distribution of shares; 0: not this kind. One of
            them is above.
        side: of the images, px.
    """
    cuts = cutmix > 0 and (not mixup or rng.random() < CUTMIX_SHARE)
    alpha = cutmix if cuts else mixup
    share = float(rng.beta(alpha, alpha))
    if not cuts:
        return Mix(share=share, box=None)
    cut = int(side * np.sqrt(1 - share))
    rows, columns = (_span(int(rng.integers(0, side)), cut, side) for _ in range(2))
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return Mix(share=1 - area / side**2, box=(rows, columns))  # What lies outside is cut off.


def _span(centre: int, length: int, side: int) -> slice:
    return slice(max(0, centre - length // 2), min(side, centre + (length + 1) // 2))


def mix_into(out: np.ndarray, image: np.ndarray, partner: np.ndarray, mix: Mix) -> None:
    """Mix an image with its partner.

    Args:
        out: (R, R, 3) uint8; becomes the result.
        image, partner: (R, R, 3) uint8.
    """
    if mix.box is not None:
        out[:] = image
        out[mix.box] = partner[mix.box]
        return
    blend = image.astype(np.float32) * mix.share
    blend += partner.astype(np.float32) * (1 - mix.share)
    out[:] = np.rint(blend, out=blend)
