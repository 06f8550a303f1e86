"""Decode the images of a source on all cores, in order, a few at a time in memory.

Threads suffice: Pillow and hashlib release the interpreter's lock while they work.
"""

import hashlib
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trainables.data import pixels
from trainables.data.samples import Samples
from trainables.machine import available_cores
from trainables.near_duplicates.perceptual_hash import perceptual_hash
from trainables.sources.downloads import with_contents
from trainables.sources.listing import MAX_FILE_BYTES
from trainables.sources.source import Item, Source
from trainables.sources.splits import SPLITS

MAX_PENDING_PER_CORE = 4  # images that are decoded, or about to be, before they are taken


class Decoded(NamedTuple):
    """An item's pixels, or the reason why there are none."""

    item: Item
    sha256: bytes  # of the bytes of the file, not of the pixels
    pixels: np.ndarray | None  # (H, W, 3) uint8 RGB
    reason: str
    samples: Samples | None = None  # how more than eight bits were scaled
    reduced: bool = False  # from more pixels
    brightest: int = 255  # the largest value of the pixels
    has_more: bool = False  # frames or pages, which are not read
    looks: np.ndarray | None = None  # the perceptual hash of the pixels
    content: bytes = b""  # of the file
    seconds: float = 0.0  # of a core, to make pixels of the file


def decode_all(source: Source, side: int, whites: Mapping[str, int]) -> Iterator[Decoded]:
    """Decode every item, in the order of the source.

    Args:
        side: px; larger images are reduced as in :func:`pixels.decode`.
        whites: as there.
    """
    cores = available_cores()
    pending: deque[Future[Decoded]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        try:
            for item in with_contents(source.items()):
                pending.append(pool.submit(_decode, item, side, whites))
                if len(pending) > MAX_PENDING_PER_CORE * cores:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True, kw_only=True)
class ExpectedImages:
    """What a source will come to, as far as some of its items tell before any is decoded."""

    classes: tuple[str, ...]
    counts: Mapping[str, int]  # images by split, about
    stored_bytes: int  # of all of them decoded, about
    file_bytes: int  # of all of their files, about
    splits_are_guessed: bool  # from the sample: the data has splits of its own


def expected_images(source: Source, side: int, shares: Mapping[str, float]) -> ExpectedImages:
    """Estimate what a source will come to, from the headers and splits of some of its items.

    Args:
        side: px; larger images are reduced to it.
        shares: of train that become the splits which the source lacks, by split.
    """
    decoded_bytes = file_bytes = 0
    splits = Counter[str]()
    for item in with_contents(source.sample()):
        splits[item.split] += 1
        with suppress(pixels.BadImageError):
            content = _read(item)
            decoded_bytes += pixels.stored_bytes(content, side)
            file_bytes += len(content)
    sampled = max(1, splits.total())
    counts = {split: splits[split] * source.total // sampled for split in SPLITS}
    new = {split: int(share * counts["train"]) for split, share in shares.items()}
    return ExpectedImages(
        classes=source.classes,
        counts=counts | new | {"train": counts["train"] - sum(new.values())},
        stored_bytes=decoded_bytes * source.total // sampled,
        file_bytes=file_bytes * source.total // sampled,
        splits_are_guessed=len(source.given_splits) > 1,
    )


def _decode(item: Item, side: int, whites: Mapping[str, int]) -> Decoded:
    try:
        content = _read(item)
        began = time.thread_time()
        picture = pixels.decode(content, side, whites)
        seconds = time.thread_time() - began
    except pixels.BadImageError as error:
        return Decoded(item, b"", None, str(error))
    rgb, sha256 = picture.rgb, hashlib.sha256(content).digest()
    return Decoded(
        item,
        sha256,
        rgb,
        reason="",
        samples=picture.samples,
        reduced=picture.reduced,
        brightest=int(rgb.max()),
        has_more=picture.has_more,
        looks=perceptual_hash(rgb),
        content=content,
        seconds=seconds,
    )


def _read(item: Item) -> bytes:
    """Read the bytes of an item's file.

    Raises:
        BadImageError: there are none, or they cannot be read.
    """
    if item.content is None:
        raise pixels.BadImageError(item.reason)
    if isinstance(item.content, bytes):
        return item.content
    assert isinstance(item.content, Path), "files in a store are downloaded before"
    try:
        if item.content.stat().st_size > MAX_FILE_BYTES:
            raise pixels.BadImageError("larger than 1 GiB")
        return item.content.read_bytes()
    except OSError as error:
        raise pixels.BadImageError(f"cannot be read ({error.strerror or error})") from error
