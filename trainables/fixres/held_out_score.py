"""Score a finished arm as it is served, in float32: on held-out sets, and on val.

Held-out sets are the test split and extra test sets. Nothing is ever chosen on them, so each is
scored once for an arm of a cell, and every look at one is recorded before it is taken.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from trainables.data.image_set import SplitImages
from trainables.data.view_cache import ViewCache
from trainables.evaluation.inference import logits_of
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
from trainables.fixres.features import body_pass, pool_logits
from trainables.fixres.predictions import (
    LOGITS,
    Predictions,
    logits_column,
    read_predictions,
)
from trainables.fixres.reuse.kept_arms import origin
from trainables.models import variants
from trainables.models.device import pick_device
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
from trainables.training.trunk import read_trunk_spec
from trainables.transforms.resolution import feature_side


@dataclass(frozen=True, kw_only=True)
class HeldOutSet:
    """Labelled images that nothing was chosen on."""

    name: str  # "test", or an extra test set's
    images: SplitImages
    digest: str  # names the images
    present: tuple[int, ...]  # the classes that occur


def score_held_out(
    held_out: HeldOutSet, store: Store, cell: CellSpec, arm: str, views: ViewCache
) -> ArmResult:
    """Score one arm of a finished cell on a held-out set, once: later calls give the first result.

    A set of fewer classes than the trunk's (ImageNet-R, -A) is scored among its own, as such sets
    are: logits of absent classes do not count.

    Args:
        views: of the sweep's images, which name the classes.

    Raises:
        DamagedFileError: the cell's weights are damaged or missing.
    """
    path = _result_path(held_out, store, cell, arm)
    recorded = unless_damaged(lambda: read_record(path, arm_result_from_json))
    maker = origin(store, cell.key, arm)
    if recorded is None or maker not in cells_tested_on(store, held_out.name):
        # Before the look: that the set was looked at is not forgotten, whatever comes of it.
        look = {"set": held_out.name, "images": held_out.digest, "cell": maker, "arm": arm}
        append_line(store.readings, look | {"at": int(time.time() * 1000)})
    if recorded is not None:
        return recorded
    began = time.monotonic()
    view = views.view_of(held_out.images, held_out.digest, cell.transform)
    logits = _logits(view, store, cell, arm, views)
    labels = torch.tensor(held_out.images.labels)
    result = ArmResult(
        arm=arm,
        score=score(logits, labels, held_out.name, held_out.present),
        seconds=round(time.monotonic() - began, 3),
    )
    said = predicted(logits, held_out.present)
    kept = of_present(logits, held_out.present)
    columns = {"label": labels.numpy(), arm: said.numpy(), LOGITS: logits_column(kept)}
    batch = pa.record_batch(columns)
    write_batch(_predictions_path(path), batch)
    write_json(path, result)
    return result


def score_val_as_served(store: Store, cell: CellSpec, arm: str, views: ViewCache) -> ArmResult:
    """Score one arm of a finished cell on val in float32, once: val has decided, in bf16 on a GPU.

    Args:
        views: of the sweep's images.

    Raises:
        SweepError: its logits are not finite.
        DamagedFileError: the cell's weights are damaged or missing.
    """
    images = views.images
    maker = origin(store, cell.key, arm)
    path = store.reading(content_hash("val as served 1", images.digest, maker, arm))
    recorded = unless_damaged(lambda: read_record(path, arm_result_from_json))
    if recorded is not None:
        return recorded
    began = time.monotonic()
    view = views.view("val", cell.transform)
    logits = _logits(view, store, cell, arm, views)
    result = ArmResult(
        arm=arm,
        score=score(logits, torch.tensor(images.split("val").labels), "val"),
        seconds=round(time.monotonic() - began, 3),
    )
    write_json(path, result)
    return result


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
    """List the keys of the cells that a held-out set was looked at for, by their first look."""
    looks = read_records(store.readings, lambda look: (str(look["set"]), str(look["cell"])))
    return list(dict.fromkeys(cell for name, cell in looks if name == set_name))


def _result_path(held_out: HeldOutSet, store: Store, cell: CellSpec, arm: str) -> Place:
    # An arm that was taken from another cell is the same net: it is not read again.
    maker = origin(store, cell.key, arm)
    return store.reading(content_hash("reading 3", held_out.name, held_out.digest, maker, arm))


def _predictions_path(result_path: Place) -> Place:
    return result_path.with_suffix(".arrow")


def _logits(
    view: np.ndarray, store: Store, cell: CellSpec, arm: str, views: ViewCache
) -> torch.Tensor:
    """Run the arm's net over a view, in float32 as it is served: (N, C) float32 on the CPU."""
    trunk = read_trunk_spec(store, cell.trunk)
    state = adapted_state(store, cell.trunk, cell.key, arm)
    model = load_model(trunk, state, len(views.images.classes))
    preprocessing = variants.preprocessing(variants.get(trunk.variant))
    batch_size, device = cell.batch_size, pick_device()
    if ARMS[arm].plain:
        return logits_of(
            model, view, preprocessing, batch_size=batch_size, device=device, exact=True
        )
    with body_pass(
        model,
        view,
        preprocessing,
        batch_size=batch_size,
        device=device,
        scratch=views.scratch,
        exact=True,
    ) as maps:
        window = feature_side(trunk.train_res)
        return pool_logits(
            model, maps.tensor, window, batch_size=batch_size, device=device, exact=True
        )
