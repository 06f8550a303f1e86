"""What a cell is: its spec, its arms' results, and what the store holds of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from trainables.evaluation.metrics import Score
from trainables.fixres.arms import ARMS
from trainables.fixres.head_settings import HeadGrid, HeadSetting
from trainables.models import backbone, variants
from trainables.models.backbone import Net, State
from trainables.models.device import pick_device
from trainables.storage.artifact_store import Store
from trainables.storage.files import Place, read_batch, read_json, read_tensors, write_batch
from trainables.storage.hashing import content_hash
from trainables.training.trunk import TrunkSpec, read_trunk_weights
from trainables.transforms.eval_transform import EvalTransform

PREDICTIONS = "predictions.arrow"
STAGE = "cell 2"  # raise it when the same spec would give other results


@dataclass(frozen=True, kw_only=True)
class CellSpec:
    """All that a cell depends on, beside its trunk."""

    trunk: str  # key
    transform: EvalTransform
    arms: tuple[str, ...]
    heads: HeadGrid
    views: int  # mildly augmented ones of each train image, for the arm "fix_aug"
    batch_size: int
    seed: int

    @property
    def test_res(self) -> int:
        return self.transform.test_res

    @property
    def key(self) -> str:
        return content_hash(STAGE, self)


@dataclass(frozen=True, kw_only=True)
class RefitCell(CellSpec):
    """A cell of one arm whose choice is made: adapted as told, on images that judge nothing."""

    images: str  # digest of train and val in one; the trunk may be of other images
    setting: HeadSetting | None  # how the arm's classifier is fitted, where it has one


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One arm of a cell on one split."""

    arm: str
    score: Score
    seconds: float  # that it took beside what arms before it had done already
    head: HeadSetting | None = None
    head_tried: int = 0  # (setting, epoch) pairs the head was picked from, on val


def arm_result_from_json(value: Mapping[str, Any]) -> ArmResult:
    """A result from its JSON."""
    head = HeadSetting(**value["head"]) if value["head"] else None
    return ArmResult(**{**value, "score": Score(**value["score"]), "head": head})


def recorded_results(store: Store, key: str) -> list[ArmResult] | None:
    """A finished cell's results, or None."""
    rows = read_json(store.cell(key) / "rows.json")
    return None if rows is None else [arm_result_from_json(r) for r in rows]


def delta_path(store: Store, cell: str, arm: str) -> Place:
    """Where the tensors are that an arm changed, if it changed any."""
    return store.cell(cell) / f"delta-{arm}.safetensors"


def adapted_state(store: Store, trunk: str, cell: str, arm: str) -> State:
    """The whole net of one arm: the trunk's weights, and what the arm changed."""
    state = read_trunk_weights(store, trunk)
    if ARMS[arm].changes:
        state = {**state, **read_tensors(delta_path(store, cell, arm))}
    return state


def load_model(spec: TrunkSpec, state: State, classes: int) -> Net:
    """The trunk's model in eval mode, on the device."""
    model = backbone.build(variants.get(spec.variant), classes)
    model.load_state_dict(state)
    return backbone.to_device(model, pick_device()).eval()


def serving_transform(spec: TrunkSpec, cell: CellSpec, arm: str) -> EvalTransform:
    """What an arm is tested through: the cell's transform, but for ``none`` the native crop."""
    if arm != "none":
        return cell.transform
    native = variants.preprocessing(variants.get(spec.variant)).crop_pct
    return replace(cell.transform, crop_pct=native)


def recorded_hits(store: Store, key: str, arm: str) -> np.ndarray:
    """Which images of val an arm has right: (n,) bool."""
    return read_hits(store.cell(key) / PREDICTIONS, arm)


def read_hits(path: Place, arm: str) -> np.ndarray:
    """Which images an arm has right, from what :func:`write_predictions` wrote: (n,) bool."""
    batch = read_batch(path)
    hits: np.ndarray = batch[arm].to_numpy() == batch["label"].to_numpy()
    return hits


def write_predictions(
    path: Place, labels: torch.Tensor, by_arm: Mapping[str, torch.Tensor]
) -> None:
    """Arrow: the label of each image, and the class that each arm gives it."""
    columns = {"label": pa.array(labels.numpy())}
    columns |= {arm: pa.array(predicted.numpy()) for arm, predicted in by_arm.items()}
    write_batch(path, pa.record_batch(columns))
