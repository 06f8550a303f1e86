"""Keep which images of val a trunk had right at a rung: what judging trunks by val leaves out.

trunks/<key>/rung-<epoch>.arrow    a column of hits for each test resolution
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import torch

from trainables.storage.artifact_store import Store
from trainables.storage.damage import unless_damaged
from trainables.storage.files import Place, read_batch, write_batch


def write_rung_hits(store: Store, key: str, epoch: int, hits: Mapping[int, torch.Tensor]) -> None:
    """Write the hits of a trunk after an epoch.

    Args:
        hits: (n,) bool each, by test resolution in px; at least one.
    """
    columns = {f"hit_{res}": pa.array(right.numpy()) for res, right in hits.items()}
    write_batch(_path(store, key, epoch), pa.record_batch(columns))


def best_rung_hits(store: Store, key: str, epoch: int) -> np.ndarray | None:
    """Read the hits of a trunk after an epoch, at the test resolution where it had most: (n,) bool.

    Returns:
        None where there are none, as in stores of former versions, or they are damaged.
    """
    batch = unless_damaged(lambda: _batch_or_none(_path(store, key, epoch)))
    if batch is None or not batch.num_columns:
        return None
    columns = [column.to_numpy(zero_copy_only=False) for column in batch.columns]
    best: np.ndarray = max(columns, key=lambda hits: hits.sum())
    return best


def _batch_or_none(path: Place) -> pa.RecordBatch | None:
    try:
        return read_batch(path)
    except FileNotFoundError:
        return None


def _path(store: Store, key: str, epoch: int) -> Place:
    return store.trunk(key) / f"rung-{epoch}.arrow"
