"""Image files with more than eight bits a sample, byte by byte: Pillow writes few of them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Literal

import numpy as np

GREY, COLOUR, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 4, 6  # PNG's colour types


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    crc = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def png(values: np.ndarray, colour_type: int, more: bytes = b"") -> bytes:
    """A PNG of 16 bits of (H, W) or (H, W, C) samples, unfiltered."""
    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    body = chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def tiff(
    values: np.ndarray,
    *,
    order: Literal["<", ">"] = "<",
    deflated: bool = False,
    more: Mapping[int, int] | None = None,
) -> bytes:
    """A TIFF of one strip of (H, W) or (H, W, C) samples of uint16, int16, uint32 or int32.

    Args:
        order: "<" or ">", the order of bytes.
        more: further tags of 16 bits, in place of the usual ones where they are the same.
    """
    height, width = values.shape[:2]
    bands = 1 if values.ndim == 2 else values.shape[2]
    strip = values.astype(values.dtype.newbyteorder(order)).tobytes()
    strip = zlib.compress(strip) if deflated else strip
    bits = 8 * values.dtype.itemsize
    tags: dict[int, tuple[int, ...]] = {
        256: (width,),
        257: (height,),
        258: (bits,) * bands,
        259: (8 if deflated else 1,),
        262: (1 if bands == 1 else 2,),
        277: (bands,),
        278: (height,),
        279: (len(strip),),
        339: (2 if values.dtype.kind == "i" else 1,) * bands,
    } | {tag: (value,) for tag, value in (more or {}).items()}
    if bands == 4:
        tags[338] = (2,)
    start = 8 + 2 + 12 * (len(tags) + 1) + 4
    aside, entries = b"", []
    tags[273] = (0,)
    for tag, numbers in sorted(tags.items()):
        kind, code = ("L", 4) if tag in (256, 257, 273, 278, 279) else ("H", 3)
        packed = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(packed) > 4:
            packed, aside = struct.pack(f"{order}L", start + len(aside)), aside + packed
        entries.append((tag, code, len(numbers), packed.ljust(4, b"\0")))
    ifd = struct.pack(f"{order}H", len(entries))
    for tag, code, count, packed in entries:
        if tag == 273:
            packed = struct.pack(f"{order}L", start + len(aside))
        ifd += struct.pack(f"{order}HHL", tag, code, count) + packed
    head = (b"II\x2a\0" if order == "<" else b"MM\0\x2a") + struct.pack(f"{order}L", 8)
    return head + ifd + b"\0\0\0\0" + aside + strip
