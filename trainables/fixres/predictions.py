"""What an arm's net gives labelled images: the classes, and the logits that they come from.

The classes that all arms of a cell give val lie in one file, the logits of each arm in one of its
own: they are many, and needed of the chosen arm alone. A held-out set has one file for each arm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from trainables.fixres.cell import PREDICTIONS
from trainables.storage.artifact_store import Store
from trainables.storage.damage import DamagedFileError, damage_told
from trainables.storage.files import Place, read_batch, write_batch

LOGITS = "logits"  # the name of their column


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What one net gives the images of one split."""

    split: str
    labels: np.ndarray
    """(n,) int64: positions of classes."""
    predicted: np.ndarray
    """(n,) int64: positions of the largest logits."""
    logits: np.ndarray | None
    """(n, C) float32; None: a version that did not keep them made the predictions."""


def logits_path(store: Store, cell: str, arm: str) -> Place:
    """Give the path of what an arm gives val."""
    return store.cell(cell) / f"logits-{arm}.arrow"


def recorded_predictions(store: Store, cell: str, arm: str) -> Predictions:
    """Read what an arm of a finished cell gives val.

    Args:
        cell: its key.

    Raises:
        DamagedFileError: a file is damaged, or the predicted classes are missing.
    """
    classes = _read(store.cell(cell) / PREDICTIONS, arm, "label")
    path = logits_path(store, cell, arm)
    logits = _logits_in(path, _read(path)) if path.exists() else None
    return _predictions("val", arm, classes, logits)


def recorded_classes(store: Store, cell: str, arm: str) -> tuple[np.ndarray, np.ndarray]:
    """Read val's labels, and the classes that an arm of a finished cell gives: (n,) int64 each.

    Raises:
        DamagedFileError: the file is damaged or missing.
    """
    batch = _read(store.cell(cell) / PREDICTIONS, arm, "label")
    return batch["label"].to_numpy(), batch[arm].to_numpy()


def read_predictions(path: Place, arm: str, *, split: str) -> Predictions:
    """Read what an arm gives a held-out set.

    Raises:
        DamagedFileError: the file is damaged or missing, or not of this arm.
    """
    batch = _read(path, arm, "label")
    logits = _logits_in(path, batch) if LOGITS in batch.schema.names else None
    return _predictions(split, arm, batch, logits)


def logits_column(logits: torch.Tensor) -> pa.Array:
    """Make an Arrow column of logits (n, C) float32 on the CPU."""
    flat = pa.array(logits.detach().reshape(-1).numpy())
    return pa.FixedSizeListArray.from_arrays(flat, logits.shape[1])


def write_logits(path: Place, logits: torch.Tensor) -> None:
    """Write an Arrow file with a column of logits: (n, C) float32 on the CPU."""
    write_batch(path, pa.record_batch({LOGITS: logits_column(logits)}))


def _read(path: Place, *columns: str) -> pa.RecordBatch:
    try:
        batch = read_batch(path)
    except FileNotFoundError:
        raise DamagedFileError(path, "it is missing") from None
    for name in columns:
        if name not in batch.schema.names:
            raise DamagedFileError(path, f"it has no column {name}")
    return batch


def _logits_in(path: Place, batch: pa.RecordBatch) -> np.ndarray:
    with damage_told(path):
        column = batch[LOGITS]
        logits: np.ndarray = column.flatten().to_numpy()
        return logits.reshape(len(column), column.type.list_size)


def _predictions(
    split: str, arm: str, classes: pa.RecordBatch, logits: np.ndarray | None
) -> Predictions:
    return Predictions(
        split=split,
        labels=classes["label"].to_numpy(),
        predicted=classes[arm].to_numpy(),
        logits=logits,
    )
