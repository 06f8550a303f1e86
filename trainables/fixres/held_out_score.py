"""Score finished arms as they are served, in float32: on held-out sets, and on val.

Held-out sets are the test split and extra test sets. Nothing is ever chosen on them, so each is
scored once for an arm of a cell, and every look at one is recorded before it is taken. Arms of one
cell are scored in one pass: they share all of the net that takes long.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from trainables.data.extra_test_sets import ExtraTestSet, open_extra_test_set
from trainables.data.image_set import ImageSet, SplitImages
from trainables.data.options import ReadOptions
from trainables.data.view_cache import ViewCache
from trainables.errors import UserError
from trainables.evaluation.inference import batches_of
from trainables.evaluation.metrics import of_present, predicted, score
from trainables.fixres.adapted_net import adapted_state
from trainables.fixres.arms import ARMS
from trainables.fixres.cell import (
    ArmResult,
    CellSpec,
    arm_result_from_json,
    load_model,
    read_hits,
)
from trainables.fixres.features import pool_logits
from trainables.fixres.predictions import (
    LOGITS,
    Predictions,
    logits_column,
    read_predictions,
)
from trainables.fixres.reuse.kept_arms import origin
from trainables.models import backbone, variants
from trainables.models.backbone import Net
from trainables.models.device import pick_device
from trainables.models.map_shape import map_shape
from trainables.models.memory_fit import MemoryFit
from trainables.models.mirrored import mirror
from trainables.storage.artifact_store import Store
from trainables.storage.damage import unless_damaged
from trainables.storage.files import (
    Place,
    append_line,
    read_record,
    read_records,
    write_batch,
    write_json,
)
from trainables.storage.hashing import content_hash
from trainables.training.trunk import TrunkSpec, read_trunk_spec


@dataclass(frozen=True, kw_only=True)
class HeldOutSet:
    """Labelled images that nothing was chosen on."""

    name: str  # "test", or an extra test set's
    images: SplitImages
    digest: str  # names the images
    present: tuple[int, ...]  # the classes that occur


def held_out_test(images: ImageSet) -> HeldOutSet:
    """Make the test split of an image set a held-out set."""
    return HeldOutSet(
        name="test",
        images=images.split("test"),
        digest=f"{images.digest} test",
        present=tuple(range(len(images.classes))),
    )


def held_out_set(extra: ExtraTestSet) -> HeldOutSet:
    """Make an extra test set a held-out set."""
    return HeldOutSet(
        name=extra.name, images=extra.images, digest=extra.digest, present=extra.present
    )


def score_held_out(
    held_out: HeldOutSet,
    store: Store,
    cell: CellSpec,
    arms: Sequence[str],
    views: ViewCache,
    *,
    baseline: bool = False,
) -> dict[str, ArmResult]:
    """Score arms of a finished cell on a held-out set, once: later calls give the first results.

    A set of fewer classes than the trunk's (ImageNet-R, -A) is scored among its own, as such sets
    are: logits of absent classes do not count.

    Args:
        views: of the sweep's images, which name the classes.
        baseline: as of :func:`record_looks`.

    Returns:
        The results by arm. Seconds of the pass are those of the first arm that took it.

    Raises:
        DamagedFileError: the cell's weights are damaged or missing.
    """
    record_looks(held_out, store, cell, arms, baseline=baseline)
    found = recorded_on(held_out, store, cell, arms)
    if lacking := [arm for arm in arms if arm not in found]:
        view = views.view_of(held_out.images, held_out.digest, cell.transform)
        labels = torch.tensor(held_out.images.labels)
        for read in _read(view, store, cell, lacking, views):
            path = _result_path(held_out, store, cell, read.arm)
            result = ArmResult(
                arm=read.arm,
                score=score(read.logits, labels, held_out.name, held_out.present),
                seconds=read.seconds,
            )
            said = predicted(read.logits, held_out.present)
            kept = of_present(read.logits, held_out.present)
            columns = {"label": labels.numpy(), read.arm: said.numpy()}
            batch = pa.record_batch({**columns, LOGITS: logits_column(kept)})
            write_batch(_predictions_path(path), batch)
            write_json(path, result)
            found[read.arm] = result
    return {arm: found[arm] for arm in arms}


def recorded_on(
    held_out: HeldOutSet, store: Store, cell: CellSpec, arms: Iterable[str]
) -> dict[str, ArmResult]:
    """Read the results on a held-out set that the store has, by arm."""
    return _recorded({arm: _result_path(held_out, store, cell, arm) for arm in arms})


def record_looks(
    held_out: HeldOutSet,
    store: Store,
    cell: CellSpec,
    arms: Iterable[str],
    *,
    baseline: bool = False,
) -> None:
    """Record that a held-out set is looked at for arms of a cell, unless that is known.

    Before the look: that the set was looked at is not forgotten, whatever comes of it.

    Args:
        baseline: what is chosen is compared with the arms, and they are not chosen. Where they are
            later, that is another look.
    """
    known = set(read_records(store.readings, _look_from_json))
    for arm in arms:
        look = (held_out.name, held_out.digest, origin(store, cell.key, arm), arm)
        if not {(False, *look), (baseline, *look)} & known:
            named: dict[str, object] = dict(zip(_LOOK, look, strict=True))
            named |= {_BASELINE: True} if baseline else {}
            append_line(store.readings, named | {"at": int(time.time() * 1000)})


_LOOK = ("set", "images", "cell", "arm")  # the fields of a line of the looks
_BASELINE = "baseline"  # true in a line of a look at what the choice is compared with


def _look_from_json(value: dict[str, object]) -> tuple[bool | str, ...]:
    return _is_baseline(value), *(str(value[name]) for name in _LOOK)


def _is_baseline(value: dict[str, object]) -> bool:
    return bool(value.get(_BASELINE))


def score_val_as_served(
    store: Store, cell: CellSpec, arms: Sequence[str], views: ViewCache
) -> dict[str, ArmResult]:
    """Score arms of a finished cell on val in float32, once: val has decided, in bf16 on a GPU.

    Args:
        views: of the sweep's images.

    Returns:
        The results by arm, as of :func:`score_held_out`.

    Raises:
        SweepError: logits are not finite.
        DamagedFileError: the cell's weights are damaged or missing.
    """
    images = views.images
    found = recorded_on_val(images.digest, store, cell, arms)
    if lacking := [arm for arm in arms if arm not in found]:
        view = views.view("val", cell.transform)
        labels = torch.tensor(images.split("val").labels)
        for read in _read(view, store, cell, lacking, views):
            scored = score(read.logits, labels, "val")
            found[read.arm] = ArmResult(arm=read.arm, score=scored, seconds=read.seconds)
            write_json(_val_path(images.digest, store, cell, read.arm), found[read.arm])
    return {arm: found[arm] for arm in arms}


def recorded_on_val(
    images_digest: str, store: Store, cell: CellSpec, arms: Iterable[str]
) -> dict[str, ArmResult]:
    """Read the results on val, as served, that the store has, by arm."""
    return _recorded({arm: _val_path(images_digest, store, cell, arm) for arm in arms})


def _recorded(paths: dict[str, Place]) -> dict[str, ArmResult]:
    def result(path: Place) -> ArmResult | None:
        return unless_damaged(lambda: read_record(path, arm_result_from_json))

    found = {arm: result(path) for arm, path in paths.items()}
    return {arm: result for arm, result in found.items() if result is not None}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A set that arms of a finished cell are to be scored on, as they are served."""

    cell: CellSpec
    arms: tuple[str, ...]
    name: str
    """ "val", "test", or an extra test set's."""
    digest: str = ""
    """Names the images of an extra test set, as :attr:`ExtraTestSet.digest`."""
    data: Place | None = None
    """Where an extra test set lies."""
    baseline: bool = False
    """As of :func:`record_looks`."""


def score_reading(reading: Reading, store: Store, views: ViewCache, options: ReadOptions) -> None:
    """Score what the store lacks of a reading, and leave it there.

    An extra test set is decoded here if this node has not done so.

    Args:
        views: of the sweep's images.
        options: how images are read.

    Raises:
        UserError: an extra test set holds other images than were asked for.
        SweepError, DamagedFileError: as of :func:`score_val_as_served`.
    """
    cell, arms, baseline = reading.cell, reading.arms, reading.baseline
    if reading.name == "val":
        score_val_as_served(store, cell, arms, views)
        return
    if reading.data is None:
        held_out = held_out_test(views.images)
    else:
        held_out = _extra_test_set(reading, reading.data, views, options)
    score_held_out(held_out, store, cell, arms, views, baseline=baseline)


def _extra_test_set(
    reading: Reading, data: Place, views: ViewCache, options: ReadOptions
) -> HeldOutSet:
    images = views.images
    extra = open_extra_test_set(
        reading.name, data, views.cache, images.classes, options, whites=images.whites
    )
    if extra.digest != reading.digest:
        raise UserError(
            f"`also_test` {reading.name}={data} holds other images on this node ({extra.digest}) "
            f"than on the head ({reading.digest}): make one folder visible to all nodes, and leave "
            "it as it is while the sweep runs."
        )
    return held_out_set(extra)


def held_out_hits(held_out: HeldOutSet, store: Store, cell: CellSpec, arm: str) -> np.ndarray:
    """Read which images an arm classifies correctly, after :func:`score_held_out`: (n,) bool.

    Raises:
        DamagedFileError: what was predicted is damaged or missing.
    """
    return read_hits(_predictions_path(_result_path(held_out, store, cell, arm)), arm)


def held_out_predictions(
    held_out: HeldOutSet, store: Store, cell: CellSpec, arm: str
) -> Predictions:
    """Read what an arm gives a held-out set, after :func:`score_held_out`.

    Raises:
        DamagedFileError: what was predicted is damaged or missing.
    """
    path = _predictions_path(_result_path(held_out, store, cell, arm))
    return read_predictions(path, arm, split=held_out.name)


def cells_tested_on(store: Store, set_name: str) -> list[str]:
    """List the keys of the cells that a held-out set was looked at for, by their first look.

    A baseline is left out: whoever saw what it has there has not chosen it.
    """
    looks = read_records(
        store.readings, lambda look: (str(look["set"]), str(look["cell"]), _is_baseline(look))
    )
    found = [cell for name, cell, baseline in looks if name == set_name and not baseline]
    return list(dict.fromkeys(found))


def _result_path(held_out: HeldOutSet, store: Store, cell: CellSpec, arm: str) -> Place:
    # An arm that was taken from another cell is the same net: it is not read again.
    maker = origin(store, cell.key, arm)
    return store.reading(content_hash("reading 3", held_out.name, held_out.digest, maker, arm))


def _predictions_path(result_path: Place) -> Place:
    return result_path.with_suffix(".arrow")


def _val_path(images_digest: str, store: Store, cell: CellSpec, arm: str) -> Place:
    maker = origin(store, cell.key, arm)
    return store.reading(content_hash("val as served 1", images_digest, maker, arm))


@dataclass(frozen=True, kw_only=True)
class _Read:
    """What an arm's net gives a view."""

    arm: str
    logits: torch.Tensor  # (N, C) float32 on the CPU
    seconds: float  # of the pass too, where the arm is the first


def _read(
    view: np.ndarray, store: Store, cell: CellSpec, arms: Sequence[str], views: ViewCache
) -> list[_Read]:
    """Run the arms' nets over a view in one pass, in float32 as they are served.

    Nothing before the last batch norm differs between them: from there on, each has its own. Where
    memory runs out, the pass is begun again with half as many images at once.
    """
    memory_fit = MemoryFit(
        pick_device(),
        minimum=1,
        error=f"Memory runs out with a single image of {cell.test_res} px in float32, as a net is "
        "served: give trials GPUs with more memory, or choose a smaller net by the limits.",
    )
    return memory_fit.run(
        lambda n: _read_at_once(view, store, cell, arms, views, n), cell.batch_size
    )


@torch.inference_mode()
def _read_at_once(
    view: np.ndarray,
    store: Store,
    cell: CellSpec,
    arms: Sequence[str],
    views: ViewCache,
    images: int,
) -> list[_Read]:
    began = time.monotonic()
    trunk = read_trunk_spec(store, cell.trunk)
    device = pick_device()
    nets = _nets(store, cell, arms, trunk, len(views.images.classes))
    shared = nets[arms[0]]
    logits: dict[str, list[torch.Tensor]] = {arm: [] for arm in arms}
    seconds = dict.fromkeys(arms[1:], 0.0)
    preprocessing = variants.preprocessing(variants.get(trunk.variant))
    for x in batches_of(view, images, preprocessing, device):
        maps = backbone.body(shared, x, exact=True)
        z = backbone.pre_norm(shared, maps, exact=True)
        if any(ARMS[arm].mirrors for arm in arms):
            mirrored = backbone.body(shared, mirror(x), exact=True)
            mirrored_z = backbone.pre_norm(shared, mirrored, exact=True)
        for arm, net in nets.items():
            at = time.monotonic()
            if not ARMS[arm].plain:
                found = _pool(net, maps, trunk)
            elif ARMS[arm].mirrors:
                found = (_classify(net, z) + _classify(net, mirrored_z)) / 2
            else:
                found = _classify(net, z)
            logits[arm].append(found.cpu())
            if arm in seconds:
                seconds[arm] += time.monotonic() - at
    seconds[arms[0]] = time.monotonic() - began - sum(seconds.values())
    return [
        _Read(arm=arm, logits=torch.cat(logits[arm]), seconds=round(seconds[arm], 3))
        for arm in arms
    ]


def _nets(
    store: Store, cell: CellSpec, arms: Sequence[str], trunk: TrunkSpec, classes: int
) -> dict[str, Net]:
    """Load the nets of arms, by arm; all but what arms change is held once."""
    nets: dict[str, Net] = {}
    for arm in arms:
        state = adapted_state(store, cell.trunk, cell.key, arm)
        net = load_model(trunk, state, classes)
        if nets:
            backbone.share_frozen(net, nets[arms[0]])
        nets[arm] = net
    return nets


def _classify(net: Net, z: torch.Tensor) -> torch.Tensor:
    return backbone.classify(net, backbone.head_input(net, z))


def _pool(net: Net, maps: torch.Tensor, trunk: TrunkSpec) -> torch.Tensor:
    window, device = map_shape(trunk.variant, trunk.train_res).side, maps.device
    return pool_logits(net, maps, window, batch_size=len(maps), device=device, exact=True)
