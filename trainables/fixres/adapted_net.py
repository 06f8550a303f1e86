"""Read back the net that an arm of a cell left, and the transform that it is served in."""

from __future__ import annotations

from trainables.fixres.arms import ARMS
from trainables.fixres.cell import CellSpec, native_transform, read_delta
from trainables.models.backbone import State
from trainables.storage.artifact_store import Store
from trainables.training.trunk import TrunkSpec, read_trunk_weights
from trainables.transforms.eval_transform import EvalTransform


def adapted_state(store: Store, trunk: str, cell: str, arm: str) -> State:
    """Read the whole net of one arm: the trunk's weights, and over them what the arm changed.

    Args:
        trunk, cell: keys.

    Raises:
        DamagedFileError: weights are damaged or missing, as where the trunk is not finished.
    """
    state = read_trunk_weights(store, trunk)
    if ARMS[arm].changes:
        state = {**state, **read_delta(store, cell, arm)}
    return state


def serving_transform(spec: TrunkSpec, cell: CellSpec, arm: str) -> EvalTransform:
    """Say what an arm is tested through: the cell's transform, or the native crop ratio in it."""
    return native_transform(spec, cell) if ARMS[arm].native_crop else cell.transform
