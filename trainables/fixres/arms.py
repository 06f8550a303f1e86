"""The arms: ways to fit a trunk to a test resolution, cheapest first. A table."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.models.tensor_names import AFFINE, CLASSIFIER, STATISTICS


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way, and all that it changes of a trunk."""

    name: str
    words: str  # for a reader who knows the net, not the method
    changes: tuple[str, ...] = ()  # names of tensors
    plain: bool = True  # the result is a net that timm builds; else a row to compare with
    needs_train: bool = False  # a pass over the train images at the test resolution


_ALL = (
    Arm(name="none", words="as trained, tested at its weights' own crop ratio"),
    Arm(name="crop1", words="as trained, tested on the larger, full crop"),
    Arm(
        name="pool",
        words="as trained, the train-time pooling window slid over the larger map",
        plain=False,
    ),
    Arm(
        name="bn",
        words="last batch norm's statistics re-estimated at the test resolution",
        changes=STATISTICS,
        needs_train=True,
    ),
    Arm(
        name="frechet",
        words="pooled activations mapped back to their distribution at the train resolution",
        changes=CLASSIFIER,
        needs_train=True,
    ),
    Arm(
        name="fix",
        words="classifier trained and last batch norm re-estimated at the test resolution (FixRes)",
        changes=(*CLASSIFIER, *STATISTICS),
        needs_train=True,
    ),
    Arm(
        name="fix_aug",
        words="as fix, the classifier trained with label smoothing on mildly augmented views "
        "(FixEfficientNet)",
        changes=(*CLASSIFIER, *STATISTICS),
        needs_train=True,
    ),
    Arm(
        name="fix_affine",
        words="as fix, the last batch norm's scale and shift trained too",
        changes=(*CLASSIFIER, *STATISTICS, *AFFINE),
        needs_train=True,
    ),
)
ARMS = {arm.name: arm for arm in _ALL}
UNTUNED = "crop1"  # what a tuned arm is compared with: the same pixels, the trunk as it was


def rank(name: str) -> int:
    """Position in the order of cost."""
    return list(ARMS).index(name)
