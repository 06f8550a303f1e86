"""Decode labelled images once per node into a memory-mapped uint8 cache.

Training then reads pixels without decoding, and all processes of a node share the same pages. The
cache (:mod:`trainables.data.cache`) is local to a node: all processes that write it must see each
other's locks.

    CACHE/<digest>/pixels.bin    H x W x 3 uint8 RGB of each image, one after another
    CACHE/<digest>/index.arrow   one row for each image: where, how large, label, split, hash
    CACHE/<digest>/images.json   classes, and how long pixels.bin must be
    CACHE/listings/<key>.json    the digest that a listing led to, rejected files, layout, notes
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from trainables.data.cache import (
    GrowingFile,
    draft_folder,
    locked,
    make_room,
    set_limit,
    write_errors,
)
from trainables.data.decode_pool import decode_all, estimate_bytes
from trainables.data.image_set import ImageSet, Rejected
from trainables.data.locks import hold
from trainables.data.options import ReadOptions
from trainables.errors import UserError
from trainables.sources import folders
from trainables.sources.downloads import scan_store
from trainables.sources.listing import Listing
from trainables.sources.reading import read_source
from trainables.sources.source import Source
from trainables.sources.splits import assign_splits, duplicate_notes
from trainables.storage.object_store import RemotePath

INDEX_ROW_BYTES = 128  # about
FORMAT = 1  # raise it when the same images would be stored differently
READING = 2  # raise it when the same listing may lead to other images
MAX_REJECTED_NAMED = 3  # in an error

Progress = Callable[[int, int], None]


class _Stored(NamedTuple):
    """An image's row in the index."""

    path: str
    label: int
    split: str
    sha256: bytes
    offset: int
    height: int
    width: int


_SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "label": pa.int64(),
        "split": pa.string(),
        "sha256": pa.binary(32),
        "offset": pa.int64(),
        "height": pa.int32(),
        "width": pa.int32(),
    }
)


def prepare(
    data: Path | RemotePath,
    cache: Path,
    options: ReadOptions,
    progress: Progress | None = None,
    *,
    patient: bool = False,
) -> ImageSet:
    """Find, check, split and decode labelled images; those that the cache holds are not read again.

    Args:
        data: a folder with class folders, or with train/, val/ and test/ above them; or a Parquet
            or Arrow file, or a folder of such files; here or in an object store.
        cache: the folder that decoded images go to; on this node.
        options: how images are split and stored.
        progress: called with images done and images in all, while they are decoded.
        patient: whether to wait for a store that does not answer, already for its listing.

    Raises:
        UserError: the images or the cache folder are not usable; the message says why.
        SweepError: a store did not answer for long.
    """

    def source_of(listing: Listing, scratch: Path) -> Source:
        return read_source(listing, scratch, options.layout, options.class_order)

    settings = (options.val_share, options.test_share, options.seed, options.class_order)
    return decode_once(data, cache, options, settings, source_of, progress, patient=patient)


def known_set(cache: Path, digest: str, options: ReadOptions) -> ImageSet | None:
    """Open the set of that digest if the cache has it, whatever it was decoded from.

    The data is not listed, so the set comes without rejected files and notes.
    """
    cache = cache.absolute()
    set_limit(cache, options.cache_gb)
    root = cache / digest
    classes = _sound_classes(root) if hold(root) else None
    if classes is None:
        return None
    return ImageSet(root=root, digest=digest, classes=classes, rejected=(), notes=())


def decode_once(
    data: Path | RemotePath,
    cache: Path,
    options: ReadOptions,
    settings: Sequence[object],
    source_of: Callable[[Listing, Path], Source],
    progress: Progress | None = None,
    *,
    patient: bool = False,
) -> ImageSet:
    """Open the set that the cache holds of the data; decode it first where there is none.

    The set is held (:func:`trainables.data.locks.hold`) until this process ends.

    Args:
        data, cache, options, progress, patient: as in :func:`prepare`.
        settings: what the set depends on beside the files and the stored size.
        source_of: finds the labelled images of a listing; its second argument is the folder for
            what it has to download. It is not called where the cache has the set.

    Raises:
        UserError: the images or the cache folder are not usable; the message says why.
        SweepError: a store did not answer for long.
    """
    cache = cache.absolute()  # other processes, in other folders, reopen what is opened here
    listing = _scan(data, cache, patient)
    with write_errors(cache, "another disk"):
        set_limit(cache, options.cache_gb)
    key = listing.digest(FORMAT, READING, options.layout, *settings, options.cache_side)
    image_set = _look_up(cache, key, data, options)
    if image_set is not None:
        return image_set
    with locked(cache):
        image_set = _look_up(cache, key, data, options)  # another process may have been faster
        if image_set is not None:
            return image_set
        draft = cache / f"tmp-{uuid.uuid4().hex}"
        source = source_of(listing, draft / "files")
        needed = estimate_bytes(source, options.cache_side)
        extra = INDEX_ROW_BYTES * source.total + source.scratch_bytes
        request = options.space_request(source.total)
        make_room(cache, needed + extra, request)
        with write_errors(cache, request.smaller), draft_folder(draft):
            with (draft / "pixels.bin").open("wb", buffering=0) as file:
                pixels = GrowingFile(file, cache, needed, request)
                record = _decode_into(draft, pixels, data, source, options, progress)
            _publish(draft, cache, key, record)
            image_set = _look_up(cache, key, data, options)
    assert image_set is not None, "what was just written must be there"
    return image_set


def _scan(data: Path | RemotePath, cache: Path, patient: bool) -> Listing:
    if isinstance(data, RemotePath):
        return scan_store(data, patient=patient)
    listing = folders.scan(data)
    root = data.resolve()
    if root.is_dir() and cache.resolve().is_relative_to(root):
        raise UserError(f"The cache folder {cache} lies in {data}: choose another `cache_dir`.")
    return listing


def _look_up(
    cache: Path, key: str, data: Path | RemotePath, options: ReadOptions
) -> ImageSet | None:
    """Open the set that a listing led to before, and hold it; None where there is none.

    Raises:
        UserError: more files were rejected than the options tolerate.
    """
    try:
        record = json.loads((cache / "listings" / f"{key}.json").read_text())
        root = cache / record["digest"]
        classes = _sound_classes(root) if hold(root) else None
    except (OSError, ValueError, KeyError):
        return None
    if classes is None:
        return None
    rejected = tuple(Rejected(**one) for one in record["rejected"])
    _check_rejected(rejected, record["total"], data, options)
    return ImageSet(
        root=root,
        digest=record["digest"],
        classes=classes,
        rejected=rejected,
        notes=tuple(record["notes"]),
        layout=record["layout"],
    )


def _sound_classes(root: Path) -> tuple[str, ...] | None:
    """Read the classes of a decoded set; None where it is missing or was cut short."""
    try:
        description = json.loads((root / "images.json").read_text())
        is_whole = (root / "pixels.bin").stat().st_size == description["bytes"]
        if is_whole and (root / "index.arrow").exists():
            return tuple(description["classes"])
        return None
    except (OSError, ValueError, KeyError):
        return None


def _decode_into(
    draft: Path,
    pixels: GrowingFile,
    data: Path | RemotePath,
    source: Source,
    options: ReadOptions,
    progress: Progress | None,
) -> dict[str, Any]:
    """Decode a source into the draft folder, the pixels into their file there.

    Returns:
        The record for CACHE/listings.

    Raises:
        UserError: too many images are unreadable, or too few are left of a class or a split.
    """
    rejected: list[Rejected] = []
    stored: list[_Stored] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # odd metadata, reported a line a file
        for count, decoded in enumerate(decode_all(source, options.cache_side), 1):
            item, rgb = decoded.item, decoded.pixels
            if rgb is None:
                rejected.append(Rejected(path=item.path, reason=decoded.reason))
            else:
                location = (pixels.size, *rgb.shape[:2])
                stored.append(_Stored(item.path, item.label, item.split, decoded.sha256, *location))
                pixels.append(rgb.data)
            if progress is not None:
                progress(count, source.total)
    _check_rejected(rejected, source.total, data, options)
    stored, notes = _split(data, source, stored, options)
    digest = _digest(stored, source.classes, options)
    _write_index(draft / "index.arrow", stored)
    description = {"digest": digest, "classes": source.classes, "bytes": pixels.size}
    (draft / "images.json").write_text(json.dumps(description))
    return {
        "digest": digest,
        "total": source.total,
        "rejected": [asdict(one) for one in rejected],
        "notes": [*source.notes, *notes],
        "layout": source.layout,
    }


def _publish(draft: Path, cache: Path, key: str, record: dict[str, Any]) -> None:
    """Give the draft its final name, then record what the listing led to: each in one step."""
    root = cache / record["digest"]
    if _sound_classes(root) is None:
        shutil.rmtree(root, ignore_errors=True)
        draft.rename(root)
    listings = cache / "listings"
    listings.mkdir(exist_ok=True)
    temporary = listings / f"{key}.tmp"
    temporary.write_text(json.dumps(record))
    temporary.replace(listings / f"{key}.json")


def _check_rejected(
    rejected: Sequence[Rejected], total: int, data: Path | RemotePath, options: ReadOptions
) -> None:
    """Raise a UserError where more files were rejected than the options tolerate."""
    if len(rejected) <= options.max_corrupt * total:
        return
    examples = "; ".join(f"{one.path} ({one.reason})" for one in rejected[:MAX_REJECTED_NAMED])
    raise UserError(
        f"{data} has {len(rejected)} unreadable of {total} files ({len(rejected) / total:.2%},"
        f" allowed {options.max_corrupt:.2%}), as {examples}: mend or remove them, or raise"
        " `max_corrupt`."
    )


def _split(
    data: Path | RemotePath,
    source: Source,
    stored: list[_Stored],
    options: ReadOptions,
) -> tuple[list[_Stored], list[str]]:
    """Assign the splits that the data lacks, and order the images by hash, mixing the classes.

    Returns:
        The images, and sentences for the user.

    Raises:
        UserError: a class has too few images, or a split none.
    """
    missing = set(source.required_splits) - set(source.given_splits)
    all_shares = {"val": options.val_share, "test": options.test_share}
    shares = {split: share for split, share in all_shares.items() if split in missing}
    labels = [one.label for one in stored]
    hashes = [one.sha256 for one in stored]
    splits = [one.split for one in stored]
    if "train" in source.required_splits:
        splits = assign_splits(labels, hashes, splits, source.classes, shares, options.seed)
    notes = duplicate_notes(labels, hashes, splits)
    for split in source.required_splits:
        count = splits.count(split)
        if count == 0:
            where = f"The {split} split of {data}" if len(source.required_splits) > 1 else data
            raise UserError(f"{where} has no readable image: add some.")
        if split in shares:
            notes.append(
                f"The data has no {split} split: {count} images of train became it, by a hash of"
                f" their bytes (seed {options.seed})."
            )
    stored = [one._replace(split=split) for one, split in zip(stored, splits, strict=True)]
    return sorted(stored, key=lambda one: (one.sha256, one.label, one.split)), notes


def _digest(stored: Sequence[_Stored], classes: Sequence[str], options: ReadOptions) -> str:
    """Hash what training sees; the images must be in their final order."""
    sha = hashlib.sha256(json.dumps([FORMAT, options.cache_side, classes]).encode())
    for one in stored:
        sha.update(f"{one.sha256.hex()} {one.label} {one.split}\n".encode())
    return sha.hexdigest()


def _write_index(path: Path, stored: Sequence[_Stored]) -> None:
    columns = {name: [getattr(one, name) for one in stored] for name in _SCHEMA.names}
    # File names need not be valid Unicode; here they only help people find an image.
    columns["path"] = [os.fsencode(one.path).decode(errors="replace") for one in stored]
    table = pa.table(columns, schema=_SCHEMA)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        writer.write_table(table)
