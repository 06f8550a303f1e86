import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.fixres.feature_parts import FeatureParts, batches_of_rows

CPU = torch.device("cpu")
WIDTH = 3


def parts_of(lengths: list[int], dtype: Any = np.float16) -> tuple[FeatureParts, torch.Tensor]:
    """Features in parts of so many images, read-only as mapped ones are, and in one piece."""
    rng = np.random.default_rng(sum(lengths))
    parts: list[np.ndarray] = [rng.random((length, WIDTH)).astype(dtype) for length in lengths]
    whole = torch.from_numpy(np.concatenate(parts))
    for part in parts:
        part.setflags(write=False)
    return FeatureParts(tuple(parts)), whole


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
def test_rows_of_parts_are_those_of_the_whole(lengths, data):
    parts, whole = parts_of(lengths)
    assert len(parts) == len(whole) and parts.shape == whole.shape
    positions = st.lists(st.integers(0, len(whole) - 1), max_size=20)
    order = torch.tensor(data.draw(positions), dtype=torch.int64)
    batch_size = data.draw(st.integers(1, 8))
    found, wanted = (
        [batch.clone() for batch in batches_of_rows(features, order, batch_size, CPU)]
        for features in (parts, whole)
    )
    assert [len(batch) for batch in found] == [len(batch) for batch in order.split(batch_size)]
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)
    assert torch.equal(torch.cat(wanted), whole[order].float())


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_parts_are_put_together_on_a_device(dtype):
    parts, whole = parts_of([4, 1, 7], dtype)
    assert torch.equal(parts.to(CPU), whole) and parts.to(CPU).dtype == whole.dtype


def test_rows_that_nobody_takes_are_let_go():
    threads = threading.active_count()
    batches = batches_of_rows(parts_of([50])[0], torch.arange(50), 1, CPU)
    next(batches)
    del batches
    assert threading.active_count() == threads
