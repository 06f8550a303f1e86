"""Digests of what files hold, written into the files themselves: a flipped bit shows on reading."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import torch

DIGEST = "blake2b"  # key of the digest in a file's own metadata
HEADER_LENGTH_BYTES = 8  # of safetensors: the length of the JSON that follows
MAX_HEADER_BYTES = 100_000_000  # what safetensors itself allows


def tensor_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hash names, types, shapes and bytes of contiguous tensors on the CPU."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def batch_digest(batch: pa.RecordBatch) -> str:
    """Hash names, types and buffers of a batch's columns."""
    digest = hashlib.blake2b(digest_size=16)
    for field, column in zip(batch.schema, batch.columns, strict=True):
        digest.update(f"{field.name} {field.type} {len(column)}\n".encode())
        for buffer in column.buffers():
            if buffer is not None:
                digest.update(buffer)
    return digest.hexdigest()


def metadata_of(header: bytes) -> dict[str, Any]:
    """Read the metadata of a safetensors file from its first bytes, the header among them.

    Raises:
        ValueError: it is no header of such a file.
    """
    length = int.from_bytes(header[:HEADER_LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError("its header is too large")
    found = json.loads(header[HEADER_LENGTH_BYTES : HEADER_LENGTH_BYTES + length])
    metadata = found.get("__metadata__") or {}
    return dict(metadata)


def check_digest(expected: object, found: str) -> None:
    """Compare a digest that a file brings with that of its content.

    Args:
        expected: None: the file was written before there were digests, and is taken as it is.

    Raises:
        ValueError: they differ.
    """
    if expected is not None and expected != found:
        raise ValueError("its content is not what was written, by its digest")
