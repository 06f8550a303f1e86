"""Predictions and logits that are kept are those that were scored."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from trainables.fixres.arms import ARMS
from trainables.fixres.cell import PREDICTIONS, write_predictions
from trainables.fixres.predictions import (
    LOGITS,
    logits_column,
    logits_path,
    read_predictions,
    recorded_predictions,
    write_logits,
)
from trainables.storage.artifact_store import Store
from trainables.storage.damage import DamagedFileError
from trainables.storage.files import write_batch

LABELS = torch.tensor([0, 1, 2, 1])
GIVEN = torch.tensor([[2.0, 1, 0], [0, 1, -torch.inf], [1, 2, 0], [0, 1, 0]])


@pytest.mark.parametrize("arm", ARMS)
def test_a_cell_keeps_what_nets_that_may_be_served_give_val(made, arm):
    found = recorded_predictions(made.store, made.cell.key, arm)
    assert (found.split, found.labels.tolist()) == (
        "val",
        made.views.images.split("val").labels.tolist(),
    )
    logits = made.logits[arm].numpy()
    assert found.predicted.tolist() == logits.argmax(axis=1).tolist()
    if ARMS[arm].plain:
        assert found.logits is not None and found.logits.dtype == np.float32
        np.testing.assert_array_equal(found.logits, logits)
    else:
        assert found.logits is None


def test_a_cell_of_a_version_that_kept_no_logits_has_classes_alone(tmp_path):
    store = Store(tmp_path)
    write_predictions(store.cell("c1") / PREDICTIONS, LABELS, {"fix": GIVEN.argmax(dim=1)})
    found = recorded_predictions(store, "c1", "fix")
    assert found.predicted.tolist() == [0, 1, 1, 1] and found.logits is None


def test_damaged_logits_are_told(tmp_path):
    store = Store(tmp_path)
    write_predictions(store.cell("c1") / PREDICTIONS, LABELS, {"fix": GIVEN.argmax(dim=1)})
    path = logits_path(store, "c1", "fix")
    write_logits(path, GIVEN)
    np.testing.assert_array_equal(recorded_predictions(store, "c1", "fix").logits, GIVEN.numpy())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DamagedFileError, match=r"logits-fix\.arrow"):
        recorded_predictions(store, "c1", "fix")


def test_one_file_holds_what_an_arm_gives_a_held_out_set(tmp_path):
    path = tmp_path / "test.arrow"
    columns = {"label": pa.array(LABELS.numpy()), "fix": pa.array(GIVEN.argmax(dim=1).numpy())}
    write_batch(path, pa.record_batch(columns))
    assert read_predictions(path, "fix", split="test").logits is None
    write_batch(path, pa.record_batch({**columns, LOGITS: logits_column(GIVEN)}))
    found = read_predictions(path, "fix", split="test")
    np.testing.assert_array_equal(found.logits, GIVEN.numpy())
    assert (found.split, found.predicted.tolist()) == ("test", [0, 1, 1, 1])
    with pytest.raises(DamagedFileError, match=r"no column bn"):
        read_predictions(path, "bn", split="test")
    with pytest.raises(DamagedFileError, match=r"missing"):
        read_predictions(tmp_path / "other.arrow", "fix", split="test")
