"""The arms: ways of adapting a trunk to a test resolution, cheapest first.

A new arm is one function and one entry of :data:`ARMS`. The function asks :class:`.CellPasses` for
features, statistics and fitted classifiers, which arms share, and says what it changes.

Imports no torch: the command line checks the names of arms before anything heavy is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trainables.fixres.head_settings import HeadSetting
from trainables.models.parts.tensor_names import AFFINE, CLASSIFIER, STATISTICS, Part

if TYPE_CHECKING:
    import torch

    from trainables.fixres.cross_fit import CrossFit
    from trainables.fixres.heads import FittedHead
    from trainables.fixres.passes.cell_passes import CellPasses
    from trainables.models.backbone import State

FRECHET_IMAGES = 1024  # over a million activations: their quantiles are known to three digits


@dataclass(frozen=True, kw_only=True)
class AdaptedNet:
    """A trunk as an arm leaves it."""

    val_logits: Callable[[], torch.Tensor]  # (N, C) float32 on the CPU; a refit never calls it
    changed: State  # the tensors that differ from the trunk's, by their names
    head: HeadSetting | None = None  # how the classifier was trained, where it was
    head_tried: int = 0  # (setting, epoch) pairs that the classifier was picked from, on val
    cross_fit: CrossFit | None = None  # what val's pick of the classifier is worth; None: none was


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of adapting, and all that it changes of a trunk."""

    name: str
    words: str  # for a reader who knows the net, not the method
    adapt: Callable[[CellPasses], AdaptedNet]
    changes: tuple[Part, ...] = ()  # of a net that has them all
    plain: bool = True  # the result is a net that timm builds; else a row to compare with
    mirrors: bool = False  # that net's logits are the mean over the image and its mirror image
    fits_classifier: bool = False  # by the settings of the cell, of which val picks one
    fits_features: bool = False  # its classifier is trained on stored features, not through the net
    needs_train: bool = False  # a pass over the train images at the test resolution
    needs_mild_views: bool = False  # a pass over each mildly augmented view of the train images
    sampled: int = 0  # train images, at most, that pass at the test and at the train resolution

    @property
    def passes(self) -> int:
        """How often an image passes through the net where it is served."""
        return 2 if self.mirrors else 1

    @property
    def is_adapted(self) -> bool:
        """Whether what is served is anything but the trunk as trained."""
        return bool(self.changes) or self.mirrors


def adapt_none(passes: CellPasses) -> AdaptedNet:
    """Leave the trunk as it is, and test it in the cell's transform."""
    return AdaptedNet(val_logits=passes.trained_logits, changed={})


def adapt_pool(passes: CellPasses) -> AdaptedNet:
    """Leave the weights as they are, and slide the train-time pooling window over the map."""
    return AdaptedNet(val_logits=passes.sliding_window_logits, changed={})


def adapt_bn(passes: CellPasses) -> AdaptedNet:
    """Re-estimate the last batch norm's statistics on the train images."""
    weight, bias = passes.trained_classifier
    return AdaptedNet(
        val_logits=lambda: passes.logits(passes.val_features, weight, bias),
        changed=passes.statistics_state(),
    )


def adapt_frechet(passes: CellPasses) -> AdaptedNet:
    """Map pooled activations back to their law at the train resolution: no training."""
    weight, bias = passes.frechet_classifier(FRECHET_IMAGES)
    return AdaptedNet(
        val_logits=lambda: passes.logits(passes.val_features_as_trained, weight, bias),
        changed=passes.classifier_state(weight, bias),
    )


def adapt_fix(passes: CellPasses) -> AdaptedNet:
    """Re-estimate the statistics, then train the classifier in the cell's transform."""
    return _with_head(passes, passes.fix_head)


def adapt_fix_aug(passes: CellPasses) -> AdaptedNet:
    """Do as ``fix`` with label smoothing, on mildly augmented views of the train images."""
    smoothed = tuple(s for s in passes.cell.heads.label_smoothing if s > 0)
    grid = replace(passes.cell.heads, label_smoothing=smoothed)
    return _with_head(passes, passes.fit_head(passes.mild_features(), grid))


def adapt_fix_affine(passes: CellPasses) -> AdaptedNet:
    """Do as ``fix``, and train the last batch norm's scale and shift along with the classifier."""
    fitted = passes.fit_affine()
    state, names = fitted.model.state_dict(), passes.names
    return AdaptedNet(
        val_logits=lambda: passes.logits_of_head(fitted.model),
        changed={name: state[name] for name in names.of(CLASSIFIER, STATISTICS, AFFINE)},
        head=fitted.setting,
        head_tried=fitted.tried,
        cross_fit=fitted.cross_fit,
    )


def adapt_none_flip(passes: CellPasses) -> AdaptedNet:
    """Leave the trunk as it is, and average its logits over each image and its mirror image."""
    weight, bias = passes.trained_classifier
    return AdaptedNet(
        val_logits=lambda: passes.logits(passes.val_features_mirrored_as_trained, weight, bias),
        changed={},
    )


def adapt_fix_flip(passes: CellPasses) -> AdaptedNet:
    """Do as ``fix``, and average logits over each image and its mirror image.

    The classifiers are trained as those of ``fix``; val picks among the nets that are served.
    """
    return _with_head(passes, passes.fix_flip_head, mirrored=True)


def _with_head(passes: CellPasses, head: FittedHead, *, mirrored: bool = False) -> AdaptedNet:
    """A classifier that was trained on features under the re-estimated statistics, and these."""

    def val_logits() -> torch.Tensor:
        features = passes.val_features_mirrored if mirrored else passes.val_features
        return passes.logits(features, head.weight, head.bias)

    return AdaptedNet(
        val_logits=val_logits,
        changed={**passes.classifier_state(head.weight, head.bias), **passes.statistics_state()},
        head=head.setting,
        head_tried=head.tried,
        cross_fit=head.cross_fit,
    )


_TABLE = (
    Arm(
        name="none",
        words="as trained, tested at the test resolution and crop",
        adapt=adapt_none,
    ),
    Arm(
        name="pool",
        words="as trained, the train-time pooling window slid over the larger map",
        adapt=adapt_pool,
        plain=False,
    ),
    Arm(
        name="bn",
        words="last batch norm's statistics re-estimated at the test resolution",
        adapt=adapt_bn,
        changes=(STATISTICS,),
        needs_train=True,
    ),
    Arm(
        name="frechet",
        words="pooled activations mapped back to their distribution at the train resolution",
        adapt=adapt_frechet,
        changes=(CLASSIFIER,),
        sampled=FRECHET_IMAGES,
    ),
    Arm(
        name="fix",
        words="classifier trained and last batch norm re-estimated at the test resolution (FixRes)",
        adapt=adapt_fix,
        changes=(CLASSIFIER, STATISTICS),
        fits_classifier=True,
        fits_features=True,
        needs_train=True,
    ),
    Arm(
        name="fix_aug",
        words="as fix, the classifier trained with label smoothing on mildly augmented views "
        "(FixEfficientNet)",
        adapt=adapt_fix_aug,
        changes=(CLASSIFIER, STATISTICS),
        fits_classifier=True,
        fits_features=True,
        needs_train=True,
        needs_mild_views=True,
    ),
    Arm(
        name="fix_affine",
        words="as fix, the last batch norm's scale and shift trained too",
        adapt=adapt_fix_affine,
        changes=(CLASSIFIER, STATISTICS, AFFINE),
        fits_classifier=True,
        needs_train=True,
    ),
    Arm(
        name="none_flip",
        words="as trained, logits averaged over the image and its mirror image",
        adapt=adapt_none_flip,
        mirrors=True,
    ),
    Arm(
        name="fix_flip",
        words="as fix, logits averaged over the image and its mirror image",
        adapt=adapt_fix_flip,
        mirrors=True,
        changes=(CLASSIFIER, STATISTICS),
        fits_classifier=True,
        fits_features=True,
        needs_train=True,
    ),
)
ARMS = {arm.name: arm for arm in _TABLE}
UNTUNED = "none"  # what a tuned arm is compared with: the same pixels, the trunk as it was
UNTOUCHED_ARMS = ("fix",)  # of a net as its weights come, whose classifier starts at zero
RETIRED = {"crop1": "it is none with `test_crop_pct` 1.0"}  # arms of earlier versions


def rank(name: str) -> int:
    """Give an arm's position in the table, from 0: the order of cost.

    Raises:
        ValueError: there is no such arm.
    """
    return list(ARMS).index(name)
