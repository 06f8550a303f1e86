"""Have batch norms stand still while a net trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

# Of fewer images at once, what batch norm costs a net grows fast, as their statistics vary: Wu and
# He, Group Normalization, arXiv:1803.08494, figure 1.
MIN_NORMED = 8


@contextmanager
def frozen_norms(model: nn.Module) -> Iterator[None]:
    """Have batch norms normalise by their running statistics, which do not follow, in a block.

    Scale and shift are trained all the same. Norms that are in evaluation mode stay so.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
