"""Say what FixRes touches of the nets of --variants, and refuse those that it cannot divide."""

from __future__ import annotations

from trainables.fixres.arms import ARMS
from trainables.models import variants
from trainables.models.parts.tensor_names import EFFICIENTNET, STATISTICS, TensorNames


def names_of(variant: str) -> TensorNames:
    """Name the tensors that FixRes adapts in a variant's nets.

    Raises:
        UserError: there is no such variant, or its nets cannot be divided.
    """
    row = variants.get(variant)
    if row.is_of_family:
        return EFFICIENTNET
    from trainables.models.parts.dividing import names_in  # late: it imports torch

    return names_in(row)


def mixes_channels(variant: str) -> bool:
    """Whether a variant's nets mix channels between their last norm and the pooling."""
    row = variants.get(variant)
    if row.is_of_family:
        return False
    from trainables.models.parts.dividing import parts_of_architecture  # late: it imports torch

    return parts_of_architecture(row.timm_name).mixes_channels


def check_drop_path(variant: str, rate: float) -> None:
    """Check that a variant's nets have blocks that can be skipped.

    Raises:
        UserError: they have none.
    """
    row = variants.get(variant)
    if row.is_of_family:
        return
    import torch  # late: it takes seconds

    from trainables.models import backbone

    with torch.device("meta"):
        backbone.build(row, 1, drop_path=rate)


def adapts(arm: str, variant: str) -> bool:
    """Whether a variant's nets have anything of what an arm changes, if it changes anything."""
    changes = ARMS[arm].changes
    return changes != (STATISTICS,) or names_of(variant).has_statistics


def arm_in_words(arm: str, variant: str) -> str:
    """Say what an arm does to a variant's nets."""
    words = ARMS[arm].words
    if STATISTICS in ARMS[arm].changes and not names_of(variant).has_statistics:
        words += "; this net's last norm has no statistics that could be re-estimated"
    return words


def in_words(variant: str) -> str:
    """Say which modules of a variant's nets FixRes adapts, and what of them."""
    names = names_of(variant)
    what = "statistics, scale and shift" if names.has_statistics else "scale and shift alone"
    return f"last norm {names.norm} ({what}), classifier {names.classifier}"
