"""Decodes labelled images once per node into a memory-mapped uint8 cache.

Training then reads pixels without decoding, and all processes of a node share the same pages.
Knows no transforms and no tensors. The cache (:mod:`trainables.data.cache`) is local to a node: all
who write it must see each other's locks.

    CACHE/<digest>/pixels.bin    H x W x 3 uint8 RGB of each image, one after another
    CACHE/<digest>/index.arrow   one row for each image: where, how large, label, split, hash
    CACHE/<digest>/images.json   classes, and how long pixels.bin must be
    CACHE/listings/<key>.json    which digest a listing led to, what was rejected, notes
"""

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
    hold,
    locked,
    make_room,
    set_limit,
    write_errors,
)
from trainables.data.decode_pool import decode_all, estimate_bytes
from trainables.data.image_set import ImageSet, Rejected
from trainables.data.options import ReadOptions
from trainables.errors import UserError
from trainables.sources import folders, tables
from trainables.sources.downloads import scan_store
from trainables.sources.listing import Listing
from trainables.sources.source import Source
from trainables.sources.splits import assign_splits, duplicate_notes
from trainables.storage.object_store import RemotePath

INDEX_BYTES = 128  # about, of an image's row
FORMAT = 1  # counts up when the same images would be stored differently

Progress = Callable[[int, int], None]


class _Stored(NamedTuple):
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
    """Find, check, split and decode labelled images; what the cache holds is not read again.

    Args:
        data: a folder with class folders, or with train/, val/ and test/ above them; or a Parquet
            or Arrow file, or a folder of such files; here or in an object store.
        cache: the folder that decoded images go to; on this node.
        options: what decides which pixels land in which split.
        progress: called with images done and images in all, while they are decoded.
        patient: whether to wait for a store that does not answer, already for its listing.

    Raises:
        UserError: the images or the cache folder are not usable; the message says why.
        SweepError: a store did not answer for long.
    """
    shares = (options.val_share, options.test_share, options.seed)
    return decode_once(data, cache, options, shares, _source, progress, patient=patient)


def _source(listing: Listing, scratch: Path) -> Source:
    is_table = tables.holds_tables(listing)
    return tables.table_source(listing, scratch) if is_table else folders.folder_source(listing)


def known_set(cache: Path, digest: str, options: ReadOptions) -> ImageSet | None:
    """The set of that digest if the cache has it, whatever it was decoded from.

    Nothing is listed; so it tells neither what was rejected nor the notes.
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
    """What the cache holds of the data; decoded first where it holds nothing.

    The set is held (`cache.hold`) until this process ends.

    Args:
        data, cache, options, progress, patient: as of `prepare`.
        settings: what decides, beside the files and the stored size, what the images become.
        source_of: finds the labelled images of a listing, and is told of a folder for what it has
            to download; not called where the cache has them.

    Raises:
        UserError: the images or the cache folder are not usable; the message says why.
        SweepError: a store did not answer for long.
    """
    cache = cache.absolute()  # what is opened from it may be reopened in another folder
    listing = _scan(data, cache, patient)
    with write_errors(cache, "another disk"):
        set_limit(cache, options.cache_gb)
    key = listing.digest(FORMAT, *settings, options.cache_side)
    found = _look_up(cache, key, data, options)
    if found is not None:
        return found
    with locked(cache):
        found = _look_up(cache, key, data, options)  # another process may have been faster
        if found is not None:
            return found
        draft = cache / f"tmp-{uuid.uuid4().hex}"
        source = source_of(listing, draft / "files")
        needed = estimate_bytes(source, options.cache_side)
        beside = INDEX_BYTES * source.total + source.scratch_bytes
        make_room(cache, needed + beside, options.need(source.total))
        with write_errors(cache, "a smaller `cache_side`"), draft_folder(draft):
            with (draft / "pixels.bin").open("wb", buffering=0) as file:
                pixels = GrowingFile(file, cache, needed, options.need(source.total))
                told = _fill(data, source, draft, pixels, options, progress)
            _publish(draft, cache, key, told)
            found = _look_up(cache, key, data, options)
    assert found is not None, "what was just written must be found"
    return found


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
    try:
        told = json.loads((cache / "listings" / f"{key}.json").read_text())
        root = cache / told["digest"]
        classes = _sound_classes(root) if hold(root) else None
    except (OSError, ValueError, KeyError):
        return None
    if classes is None:
        return None
    rejected = tuple(Rejected(**one) for one in told["rejected"])
    _check_rejected(rejected, told["total"], data, options)
    return ImageSet(
        root=root,
        digest=told["digest"],
        classes=classes,
        rejected=rejected,
        notes=tuple(told["notes"]),
    )


def _sound_classes(root: Path) -> tuple[str, ...] | None:
    """The classes of a finished cache entry; None where it is missing or was cut short."""
    try:
        told = json.loads((root / "images.json").read_text())
        whole = (root / "pixels.bin").stat().st_size == told["bytes"]
        return tuple(told["classes"]) if whole and (root / "index.arrow").exists() else None
    except (OSError, ValueError, KeyError):
        return None


def _fill(
    data: Path | RemotePath,
    source: Source,
    draft: Path,
    pixels: GrowingFile,
    options: ReadOptions,
    progress: Progress | None,
) -> dict[str, Any]:
    """Decode into the draft folder, the pixels into their file there.

    Returns:
        What is to be told of this listing.

    Raises:
        UserError: too many images are unreadable, or too few are left of a class or a split.
    """
    rejected: list[Rejected] = []
    stored: list[_Stored] = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # odd metadata, reported a line a file
        for count, one in enumerate(decode_all(source, options.cache_side), 1):
            if one.pixels is None:
                rejected.append(Rejected(path=one.item.path, reason=one.reason))
            else:
                item, (height, width, _) = one.item, one.pixels.shape
                stored.append(
                    _Stored(
                        item.path, item.label, item.split, one.sha256, pixels.size, height, width
                    )
                )
                pixels.append(one.pixels.data)
            if progress is not None:
                progress(count, source.total)
    _check_rejected(rejected, source.total, data, options)
    stored, notes = _split(data, source, stored, options)
    digest = _digest(stored, source.classes, options)
    _write_index(draft / "index.arrow", stored)
    told = {"digest": digest, "classes": source.classes, "bytes": pixels.size}
    (draft / "images.json").write_text(json.dumps(told))
    return {
        "digest": digest,
        "total": source.total,
        "rejected": [asdict(one) for one in rejected],
        "notes": [*source.notes, *notes],
    }


def _publish(draft: Path, cache: Path, key: str, told: dict[str, Any]) -> None:
    """Give the draft its final name, then note what the listing led to: each in one step."""
    root = cache / told["digest"]
    if _sound_classes(root) is None:
        shutil.rmtree(root, ignore_errors=True)
        draft.rename(root)
    listings = cache / "listings"
    listings.mkdir(exist_ok=True)
    note = listings / f"{key}.tmp"
    note.write_text(json.dumps(told))
    note.replace(listings / f"{key}.json")


def _check_rejected(
    rejected: Sequence[Rejected], total: int, data: Path | RemotePath, options: ReadOptions
) -> None:
    if len(rejected) <= options.max_corrupt * total:
        return
    examples = "; ".join(f"{one.path} ({one.reason})" for one in rejected[:3])
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
    """Carve the missing splits; order the images by their bytes, which mixes the classes."""
    shares = {"val": options.val_share, "test": options.test_share}
    missing = set(source.required_splits) - set(source.given_splits)
    wanted = {split: share for split, share in shares.items() if split in missing}
    labels = [one.label for one in stored]
    hashes = [one.sha256 for one in stored]
    splits = [one.split for one in stored]
    if "train" in source.required_splits:
        splits = assign_splits(labels, hashes, splits, source.classes, wanted, options.seed)
    notes = duplicate_notes(labels, hashes, splits)
    for split in source.required_splits:
        count = splits.count(split)
        if count == 0:
            where = f"The {split} split of {data}" if len(source.required_splits) > 1 else data
            raise UserError(f"{where} has no readable image: add some.")
        if split in wanted:
            notes.append(
                f"The data has no {split} split: {count} images of train became it, by a hash of"
                f" their bytes (seed {options.seed})."
            )
    stored = [one._replace(split=split) for one, split in zip(stored, splits, strict=True)]
    return sorted(stored, key=lambda one: (one.sha256, one.label, one.split)), notes


def _digest(stored: Sequence[_Stored], classes: Sequence[str], options: ReadOptions) -> str:
    """Names what training sees; expects the images in their final order."""
    told = hashlib.sha256(json.dumps([FORMAT, options.cache_side, classes]).encode())
    for one in stored:
        told.update(f"{one.sha256.hex()} {one.label} {one.split}\n".encode())
    return told.hexdigest()


def _write_index(path: Path, stored: Sequence[_Stored]) -> None:
    columns = {name: [getattr(one, name) for one in stored] for name in _SCHEMA.names}
    # File names may be no Unicode; here they only serve to find an image again.
    columns["path"] = [os.fsencode(one.path).decode(errors="replace") for one in stored]
    table = pa.table(columns, schema=_SCHEMA)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        writer.write_table(table)
