"""Adapt one trunk to one test resolution and crop: a cell, with a result for each arm.

    none        the trunk as trained, in the cell's test transform
    pool        none, with timm's test-time pooling instead of the mean
    bn          the last batch norm's statistics re-estimated in the test transform
    frechet     pooled activations mapped back by a parametric law (:mod:`.frechet`)
    fix         bn, then the classifier trained in the test transform: FixRes (Touvron et al.,
                arXiv:1906.06423, section 4.2), its first set of transforms
    fix_aug     bn, then the classifier trained on views of the mild augmentation with label
                smoothing: FixEfficientNet (arXiv:2003.08237)
    fix_affine  fix's setting, and the norm's scale and shift trained too, on the kept maps
    none_flip   none, with logits averaged over each image and its mirror image
    fix_flip    fix, likewise; val picks among the same classifiers by these logits

Passes of the net for all arms together: one over train and one over val, in the test transform; one
over val mirrored for the flips; V over train for the V views of ``fix_aug``; and, once a trunk and
crop, one over at most ``FRECHET_IMAGES`` train images at the train resolution for ``frechet``,
which takes as many at the test resolution where no other arm needs train. All else is worked out
from the maps that the passes leave; of a set too large to keep them all (``CellSpec.prefix``)
features are streamed instead, and corrected (:mod:`.streaming.train_stream`).

Cells of one resolution and two crops share the decoded images and no pass: the fix adapts to what
is seen in testing, so that its train views are resized and cropped as those of val are, and each
crop has other pixels.

Where this differs from the released FixRes code: there the last batch norm's statistics follow
each batch while the classifier trains, and the last epoch is kept; here they are estimated once,
over all train images in float64, and then stand, and val picks the setting and the epoch. (A
refit, :class:`.RefitCell`, is given both and has no val.) There the test transform of
EfficientNets is bilinear at 224/256; here it is by default what their published figures were
measured with (crop ratio 1.0, the weights' own interpolation and normalisation).
"""

from __future__ import annotations

import time

import torch

from trainables.data.view_cache import ViewCache
from trainables.errors import SweepError
from trainables.evaluation.class_metrics import IN_WORDS, count_by_class
from trainables.evaluation.metrics import NotFiniteError, Score, predicted, score
from trainables.fixres.arms import ARMS, Arm
from trainables.fixres.cell import (
    ArmResult,
    CellSpec,
    RefitCell,
    delta_path,
)
from trainables.fixres.cross_fit import CrossFit
from trainables.fixres.features import KeptFeatures
from trainables.fixres.passes.cell_passes import CellPasses, Wanted
from trainables.fixres.predictions import logits_path, write_logits
from trainables.fixres.reuse.kept_arms import (
    AdaptedArm,
    kept_statistics,
    read_kept,
    taken_arms,
    write_arms,
)
from trainables.models.backbone import State
from trainables.models.device import pick_device
from trainables.models.memory_fit import MemoryFit
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_tensors
from trainables.transforms.fast_resize import kernel_here


def adapt_cell(
    cell: CellSpec, store: Store, views: ViewCache, *, images_at_once: int | None = None
) -> list[ArmResult]:
    """Work out a cell and leave it in the store, each arm of it in the table's order.

    Leaves the features that classifiers were trained on (memory-mapped Arrow), what each arm
    changed (``delta-<arm>.safetensors``), what each predicts for val (``predictions.arrow`` and,
    of nets that may be served, ``logits-<arm>.arrow``) and, last of all, ``rows.json``. A refit
    has no val: it leaves no predictions, and no results.

    Arms that another cell of the store has are taken from there (:mod:`.reuse`). Where memory runs
    out, the cell is begun again with half as many images at once.

    Args:
        views: of the images that the trunk was trained on; for a refit, of train and val in one.
        images_at_once: in the passes of the net, at first; None: the cell's batch. Results differ
            by rounding.

    Returns:
        A result on val for each arm.

    Raises:
        SweepError: an arm's logits, or what a refit comes to, are not finite; or not even a single
            image fits into memory.
    """
    memory_fit = MemoryFit(
        pick_device(),
        minimum=1,
        error=f"Memory runs out with a single image of {cell.test_res} px: test at a lower "
        "`test_res`, leave out the largest variants, or give trials GPUs with more memory.",
    )
    whole = images_at_once or cell.batch_size
    return memory_fit.run(lambda n: _adapt_cell(cell, store, views, n), whole)


def _adapt_cell(
    cell: CellSpec, store: Store, views: ViewCache, images_at_once: int
) -> list[ArmResult]:
    taken, arms = taken_arms(store, cell), []
    own = [arm for arm in ARMS.values() if arm.name in cell.arms]
    left = [arm for arm in own if arm.name not in taken]
    wanted = Wanted(
        train=any(arm.needs_train for arm in left),
        # fix_affine starts from the classifier of fix, but in a refit, which has its setting.
        features=any(
            arm.fits_classifier
            and not arm.needs_mild_views
            and (arm.fits_features or not isinstance(cell, RefitCell))
            for arm in left
        ),
    )
    kept = _kept_features(cell, store)
    with CellPasses(cell, store, views, kept, wanted, images_at_once) as passes:
        for arm in own:
            adapted = taken.get(arm.name) or _adapt(arm, passes, cell, store)
            if adapted is not None:
                arms.append(adapted)
    results = write_arms(store, cell, arms)
    passes.forget_progress()
    return results


def _adapt(arm: Arm, passes: CellPasses, cell: CellSpec, store: Store) -> AdaptedArm | None:
    """Work out an arm, and write what it changes and its logits; of a refit nothing is returned."""
    began = time.monotonic()
    net = arm.adapt(passes)
    assert set(net.changed) == set(passes.names.of(*arm.changes))
    if isinstance(cell, RefitCell):
        _check_finite(arm.name, net.changed)
    if net.changed:
        write_tensors(delta_path(store, cell.key, arm.name), net.changed)
    if isinstance(cell, RefitCell):
        return None
    logits, labels = net.val_logits(), passes.labels["val"]
    if arm.plain:  # of no other can it be asked how sure it is: none is ever served
        write_logits(logits_path(store, cell.key, arm.name), logits)
    return AdaptedArm(
        result=ArmResult(
            arm=arm.name,
            score=_val_score(arm.name, logits, labels),
            seconds=round(time.monotonic() - began, 3),
            head=net.head,
            head_tried=net.head_tried,
            crossfit=_crossfit_values(net.cross_fit, labels),
            resize=kernel_here() if arm.needs_train or arm.sampled else "",
        ),
        labels=labels,
        predicted=predicted(logits),
        crossfit=None if net.cross_fit is None else net.cross_fit.predicted,
    )


def _kept_features(cell: CellSpec, store: Store) -> KeptFeatures | None:
    """Find what another cell of the same passes has left of them."""
    key = None if isinstance(cell, RefitCell) else read_kept(store, cell.key).features
    statistics = None if key is None else kept_statistics(store, key)
    if key is None or statistics is None:
        return None
    return KeptFeatures(statistics, store.cell(key))


def _val_score(arm: str, logits: torch.Tensor, labels: torch.Tensor) -> Score:
    try:
        return score(logits, labels, "val")
    except NotFiniteError as error:
        raise NotFiniteError(f"The arm {arm} has no score: {error}") from None


def _crossfit_values(cross_fit: CrossFit | None, labels: torch.Tensor) -> dict[str, float] | None:
    """Give the value of what halves of val picked, by each metric; None: they picked nothing."""
    if cross_fit is None:
        return None
    said = cross_fit.predicted
    classes = 1 + int(max(said.max(), labels.max()))
    counts = count_by_class(labels.numpy(), said.numpy(), classes)
    return {metric: float(counts.value(metric)) for metric in IN_WORDS}


def _check_finite(arm: str, changed: State) -> None:
    """Refuse a refit that is not finite: it has no val that would show it."""
    if not all(bool(tensor.isfinite().all()) for tensor in changed.values()):
        raise SweepError(f"The arm {arm}, fitted again as it was chosen, is not finite.")
