"""Read back the net that an arm of a cell left, and the transform that it is served in."""

from __future__ import annotations

from trainables.fixres.arms import ARMS
from trainables.fixres.cell import CellSpec, delta_path, native_transform
from trainables.models.backbone import State
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_tensors
from trainables.training.trunk import TrunkSpec, read_trunk_weights
from trainables.transforms.eval_transform import EvalTransform


def adapted_state(store: Store, trunk: str, cell: str, arm: str) -> State:
    """Read the whole net of one arm: the trunk's weights, and over them what the arm changed.

    Args:
        trunk, cell: keys.

    Raises:
        FileNotFoundError: the trunk is not finished, or the cell has not this arm.
    """
    state = read_trunk_weights(store, trunk)
    if ARMS[arm].changes:
        state = {**state, **read_tensors(delta_path(store, cell, arm))}
    return state


def serving_transform(spec: TrunkSpec, cell: CellSpec, arm: str) -> EvalTransform:
    """Say what an arm is tested through: the cell's transform, or the native crop ratio in it."""
    return native_transform(spec, cell) if ARMS[arm].native_crop else cell.transform
