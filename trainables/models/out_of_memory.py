"""Recognise that a device's memory has run out, whichever library says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Memory that libraries take by themselves, and that of other devices: PyTorch passes on their words
# in errors of no class of their own.
WORDS = (
    "CUDA error: out of memory",
    "HIP error: out of memory",
    "MPS backend out of memory",
    "BLAS_STATUS_ALLOC_FAILED",  # cuBLAS, hipBLAS
    "CUDNN_STATUS_ALLOC_FAILED",
)


@contextmanager
def running_out_told() -> Iterator[None]:
    """Have whatever says in the block that memory has run out be torch's own error of that.

    Raises:
        torch.OutOfMemoryError: in place of another error that says so.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if not any(words in str(error) for words in WORDS):
            raise
        raise torch.OutOfMemoryError(str(error)) from error
