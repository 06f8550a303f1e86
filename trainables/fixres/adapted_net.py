"""Read back the net that an arm of a cell left."""

from __future__ import annotations

from trainables.fixres.arms import ARMS
from trainables.fixres.cell import read_delta
from trainables.models.backbone import State
from trainables.storage.artifact_store import Store
from trainables.training.trunk import read_trunk_weights


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
