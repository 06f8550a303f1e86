"""Score a finished arm on images that nothing was chosen on: the test split, and further sets."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trainables.data.image_set import SplitImages
from trainables.data.view_cache import ViewCache
from trainables.evaluation.inference import logits_of
from trainables.evaluation.metrics import score
from trainables.fixres.adapted_net import adapted_state, serving_transform
from trainables.fixres.arms import ARMS
from trainables.fixres.cell import (
    ArmResult,
    CellSpec,
    arm_result_from_json,
    load_model,
    read_hits,
    write_predictions,
)
from trainables.fixres.features import body_pass, pool_logits
from trainables.models import variants
from trainables.models.device import pick_device
from trainables.storage.artifact_store import Store
from trainables.storage.files import Place, append_line, read_json, read_lines, write_json
from trainables.storage.hashing import content_hash
from trainables.training.trunk import read_trunk_spec
from trainables.transforms.resolution import feature_side


@dataclass(frozen=True, kw_only=True)
class HeldOutSet:
    """Labelled images that nothing was chosen on."""

    name: str  # "test", or a further set's
    images: SplitImages
    digest: str
    present: tuple[int, ...]  # the classes that occur


def score_held_out(
    unseen: HeldOutSet, store: Store, cell: CellSpec, arm: str, place: ViewCache
) -> ArmResult:
    """Score one arm of one cell on the set, once: later calls give the first reading.

    Among the classes that the set has: sets of fewer (ImageNet-R, -A) are measured so.
    """
    path = _path(unseen, store, cell, arm)
    found = read_json(path)
    if found is not None:
        return arm_result_from_json(found)
    # Before the look: that the set was looked at is not forgotten, whatever comes of it.
    looked = {"set": unseen.name, "images": unseen.digest, "cell": cell.key, "arm": arm}
    append_line(store.readings, looked | {"at": int(time.time() * 1000)})
    began = time.monotonic()
    logits = _logits(unseen, store, cell, arm, place)
    labels = torch.tensor(unseen.images.labels)
    absent = torch.ones(logits.shape[1], dtype=torch.bool)
    absent[list(unseen.present)] = False
    logits = logits.masked_fill(absent, -torch.inf)
    reading = ArmResult(
        arm=arm,
        score=score(logits, labels, unseen.name),
        seconds=round(time.monotonic() - began, 3),
    )
    write_predictions(_predictions(path), labels, {arm: logits.argmax(dim=1)})
    write_json(path, reading)
    return reading


def cells_read(store: Store, name: str) -> list[str]:
    """The cells that have been looked at on the set, in the order of their first reading."""
    lines = [line for line in read_lines(store.readings) if line["set"] == name]
    return list(dict.fromkeys(line["cell"] for line in lines))


def hits_of(unseen: HeldOutSet, store: Store, cell: CellSpec, arm: str) -> np.ndarray:
    """Which images an arm that has been read has right: (n,) bool."""
    return read_hits(_predictions(_path(unseen, store, cell, arm)), arm)


def _path(unseen: HeldOutSet, store: Store, cell: CellSpec, arm: str) -> Place:
    return store.reading(content_hash("reading 2", unseen.name, unseen.digest, cell.key, arm))


def _predictions(path: Place) -> Place:
    return path.with_suffix(".arrow")


def _logits(
    unseen: HeldOutSet, store: Store, cell: CellSpec, arm: str, place: ViewCache
) -> torch.Tensor:
    trunk = read_trunk_spec(store, cell.trunk)
    state = adapted_state(store, cell.trunk, cell.key, arm)
    model = load_model(trunk, state, len(place.images.classes))
    preprocessing = variants.preprocessing(variants.get(trunk.variant))
    view = place.view_of(unseen.images, unseen.digest, serving_transform(trunk, cell, arm))
    size: dict[str, Any] = {"batch_size": cell.batch_size, "device": pick_device()}
    if ARMS[arm].plain:
        return logits_of(model, view, preprocessing, **size)
    with body_pass(model, view, preprocessing, scratch=place.scratch, **size) as maps:
        return pool_logits(model, maps.tensor, feature_side(trunk.train_res), **size)
