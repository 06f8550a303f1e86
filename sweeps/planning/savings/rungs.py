"""Say after which epochs trunks are compared with each other: the rungs of halving."""

from __future__ import annotations

from math import ceil

# Before so many steps, low learning rates lead that are behind in the end: docs/measured.md.
FIRST_RUNG_STEPS = 250
FIRST_RUNG_EPOCHS = 2


def default_grace_epochs(train_images: int, batch_size: int) -> int:
    """Return the first rung, in epochs, where none is asked for: that after enough steps.

    Args:
        train_images: how many an epoch has.
        batch_size: images of a step.
    """
    steps_per_epoch = max(1, train_images // batch_size)
    return max(FIRST_RUNG_EPOCHS, ceil(FIRST_RUNG_STEPS / steps_per_epoch))


def rungs_to(epochs: int, grace_epochs: int, reduction: int) -> tuple[int, ...]:
    """List the epochs after which trunks are scored on val: ASHA's rungs, and their last epoch.

    Args:
        epochs: of a trunk that is not cut.
        grace_epochs: the first rung.
        reduction: each rung is so many times as far as the last.
    """
    rung, rungs = grace_epochs, []
    while rung < epochs:
        rungs.append(rung)
        rung *= reduction
    return (*rungs, epochs)
