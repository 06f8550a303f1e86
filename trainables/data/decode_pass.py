"""Decode all images of a source into the files of a set: one pass, and its splits, digest, notes.

Where there is no room for the pixels, the set keeps the images' files, which are decoded at each
use: all else of it is the same, its digest too. The files of the set lie in a draft folder of the
cache, which :mod:`trainables.data.decode` publishes.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from trainables.data.cache import GrowingFile, size_in_words
from trainables.data.decode_pool import Decoded, decode_all
from trainables.data.image_set import Form, Rejected
from trainables.data.options import ReadOptions
from trainables.data.samples import Samples, shared_whites, white_notes
from trainables.data.stored_hashes import write_hashes
from trainables.errors import UserError, printable
from trainables.sources.grouped_splits import assign_groups
from trainables.sources.groups import count_groups, group_notes, group_sizes
from trainables.sources.source import Source
from trainables.sources.splits import SPLITS, assign_splits, duplicate_notes
from trainables.storage.object_store import RemotePath

GROUPS = "groups.json"  # beside the set until it has its name
FORMAT = 1  # raise it when the same images would be stored differently
MAX_REJECTED_NAMED = 3  # in an error
NEARLY_BLACK = 16  # of 256: an image without larger values is one that was read wrongly, or black


class _Stored(NamedTuple):
    """An image's row in the index, and how it was read."""

    path: str
    label: int
    split: str
    sha256: bytes
    offset: int
    length: int
    height: int
    width: int
    samples: Samples | None
    reduced: bool
    brightest: int
    has_more: bool
    group: str | None
    looks: np.ndarray


_SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "label": pa.int64(),
        "split": pa.string(),
        "sha256": pa.binary(32),
        "offset": pa.int64(),
        "length": pa.int64(),
        "height": pa.int32(),
        "width": pa.int32(),
    }
)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """What is decoded, and how, in whatever form it is kept."""

    data: Path | RemotePath
    source: Source
    options: ReadOptions
    whites: Mapping[str, int] | None
    """The value that is white by kind of image; None: what this set's images come to."""
    progress: Callable[[int, int], None] | None
    """Called with images done and images in all."""


def decode_into(draft: Path, form: Form, file: GrowingFile, decoding: Decoding) -> dict[str, Any]:
    """Decode a source into the draft folder.

    Args:
        form: what is kept of images.
        file: for that.
        decoding: of what, and how.

    Returns:
        The record for CACHE/listings.

    Raises:
        UserError: too many images are unreadable, or too few are left of a class or a split.
    """
    data, source, options = decoding.data, decoding.source, decoding.options
    whites, progress = decoding.whites, decoding.progress
    rejected: list[Rejected] = []
    stored: list[_Stored] = []
    decoding_s = 0.0  # of a core
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # odd metadata, reported a line a file
        for count, decoded in enumerate(decode_all(source, options.cache_side, whites or {}), 1):
            if decoded.pixels is None:
                path = printable(decoded.item.path)
                rejected.append(Rejected(path=path, reason=printable(decoded.reason)))
            else:
                kept = _kept(decoded, form)
                stored.append(_stored(decoded, file.size, len(kept)))
                file.append(kept)
                decoding_s += decoded.seconds
            if progress is not None:
                progress(count, source.total)
        check_rejected(rejected, source.total, data, options)
        if whites is None:
            whites = shared_whites(one.samples for one in stored)
            stored = _with_shared_whites(stored, form, file, data, source, options, whites)
    notes = _reading_notes(stored, options)
    stored, split_notes = _split(data, source, stored, options)
    digest = _digest(stored, source.classes, options)
    _write_index(draft / "index.arrow", stored)
    write_hashes(draft, [one.looks for one in stored])
    if options.group_by is not None:
        sizes = group_sizes([one.group for one in stored], [one.split for one in stored])
        (draft / GROUPS).write_text(json.dumps(sizes))
    description = {"digest": digest, "classes": source.classes, "bytes": file.size}
    if form == "encoded":
        note = _encoded_note(stored, file.size, decoding_s)
        description |= {"form": form, "side": options.cache_side, "note": note}
    if whites:
        description["whites"] = dict(whites)
    (draft / "images.json").write_text(json.dumps(description))
    return {
        "digest": digest,
        "total": source.total,
        "rejected": [asdict(one) for one in rejected],
        "notes": [*source.notes, *notes, *split_notes],
        "layout": source.layout,
        "splits": splits_in_words(source, stored),
    }


def _kept(decoded: Decoded, form: Form) -> memoryview:
    """Give the bytes that are kept of an image."""
    assert decoded.pixels is not None, "the caller has looked"
    return decoded.pixels.data.cast("B") if form == "decoded" else memoryview(decoded.content)


def _encoded_note(stored: Sequence[_Stored], size: int, decoding_s: float) -> str:
    """Write a sentence on images that are decoded at each use."""
    decoded = sum(3 * one.height * one.width for one in stored)
    return (
        f"The images are kept as their files ({size_in_words(size)}), as the cache has no room for "
        f"their pixels ({size_in_words(decoded)}) and what cells keep there: each is decoded "
        f"whenever it is used, which a core does in {1000 * decoding_s / max(1, len(stored)):.1f} "
        "ms. Results are the same."
    )


def _stored(decoded: Decoded, offset: int, length: int) -> _Stored:
    item, rgb = decoded.item, decoded.pixels
    assert rgb is not None and decoded.looks is not None, "the caller has looked"
    return _Stored(
        path=item.path,
        label=item.label,
        split=item.split,
        sha256=decoded.sha256,
        offset=offset,
        length=length,
        height=rgb.shape[0],
        width=rgb.shape[1],
        samples=decoded.samples,
        reduced=decoded.reduced,
        brightest=decoded.brightest,
        has_more=decoded.has_more,
        group=item.group,
        looks=decoded.looks,
    )


def _with_shared_whites(
    stored: list[_Stored],
    form: Form,
    file: GrowingFile,
    data: Path | RemotePath,
    source: Source,
    options: ReadOptions,
    whites: Mapping[str, int],
) -> list[_Stored]:
    """Decode again the images whose own values led to another white than their kind has.

    Raises:
        UserError: one of them has changed.
    """
    own = {
        one.path: position
        for position, one in enumerate(stored)
        if one.samples is not None
        and not one.samples.stated
        and one.samples.white != whites[one.samples.kind]
    }
    if not own:
        return stored
    again = replace(source, items=lambda: (i for i in source.items() if i.path in own))
    result = list(stored)
    for decoded in decode_all(again, options.cache_side, whites):
        position = own[decoded.item.path]
        former = stored[position]
        if decoded.pixels is None or decoded.sha256 != former.sha256:
            raise UserError(
                f"{printable(decoded.item.path)} in {data} was changed while the images were read: "
                "give the same command again once all of them are in place."
            )
        kept = _kept(decoded, form)
        file.rewrite(former.offset, kept)
        result[position] = _stored(decoded, former.offset, len(kept))
    return result


def _reading_notes(stored: Sequence[_Stored], options: ReadOptions) -> list[str]:
    """Write sentences on images whose pixels are not simply those of their files."""
    notes = white_notes([one.samples for one in stored])
    reduced = sum(one.reduced for one in stored)
    if reduced:
        notes.append(
            f"{reduced} image(s) have a short side above {options.cache_side:,} px: they are kept "
            "reduced to it, and each resolution is resized from there."
        )
    several = [printable(one.path) for one in stored if one.has_more]
    if several:
        notes.append(
            f"{len(several)} image(s) have several frames or pages, as {several[0]}: the first is "
            "taken."
        )
    dark = [printable(one.path) for one in stored if one.brightest < NEARLY_BLACK]
    if dark:
        notes.append(
            f"{len(dark)} image(s) are nearly black, with no value above {NEARLY_BLACK - 1} of 255,"
            f" as {dark[0]}: look at them."
        )
    return notes


def check_rejected(
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
    shares = new_shares(source, options)
    labels = [one.label for one in stored]
    hashes = [one.sha256 for one in stored]
    splits = [one.split for one in stored]
    groups = [one.group for one in stored]
    if source.grouping and shares:
        splits = assign_groups(labels, hashes, groups, splits, source.classes, shares, options.seed)
    elif "train" in source.required_splits:
        splits = assign_splits(labels, hashes, splits, source.classes, shares, options.seed)
    notes = duplicate_notes(labels, hashes, splits)
    for split in source.required_splits:
        if split not in splits:
            where = f"The {split} split of {data}" if len(source.required_splits) > 1 else data
            raise UserError(f"{where} has no readable image: add some.")
    if source.grouping:
        notes += group_notes(source.grouping, [one.path for one in stored], groups, splits)
    stored = [one._replace(split=split) for one, split in zip(stored, splits, strict=True)]
    notes += _new_split_notes(source, stored, shares, options.seed)
    return sorted(stored, key=lambda one: (one.sha256, one.label, one.split)), notes


def new_shares(source: Source, options: ReadOptions) -> dict[str, float]:
    """Give the share of train that becomes each split which the data lacks."""
    picked = options.pick_share if source.picks_in_train else None
    shares = {
        "val": options.val_share if picked is None else picked,
        "test": options.test_share,
    }
    missing = set(source.required_splits) - set(source.given_splits)
    return {split: share for split, share in shares.items() if split in missing}


def _new_split_notes(
    source: Source, stored: Sequence[_Stored], shares: Mapping[str, float], seed: int
) -> list[str]:
    """Write sentences on the splits that are made of train."""
    notes = []
    splits = [one.split for one in stored]
    groups = [one.group for one in stored]
    from_train = splits.count("train") + sum(splits.count(split) for split in shares)
    drawn_by = "group" if source.grouping else "bytes"
    for split, asked in shares.items():
        count = splits.count(split)
        words = f"{count} images of train became it"
        if source.own_val_is_test:
            words = f"its val is test, and {count} images of train, held out, pick in its place"
        if source.grouping:
            number = count_groups(groups, splits, split)
            words += f", {count / from_train:.1%} in {number} group(s) where {asked:.1%} was asked"
        lacks = "test" if source.own_val_is_test else split
        notes.append(
            f"The data has no {lacks} split: {words}, by a hash of their {drawn_by} (seed {seed})."
        )
        present = {one.label for one in stored if one.split == split}
        absent = [name for label, name in enumerate(source.classes) if label not in present]
        if absent and source.grouping:
            notes.append(
                f"The {split} split lacks {len(absent)} class(es) of train, as {absent[0]}: they"
                " are of too few groups."
            )
    return notes


def splits_in_words(source: Source, stored: Sequence[_Stored]) -> str:
    """Say where the splits are from, for results."""
    new = [split for split in SPLITS if split not in source.given_splits]
    parts = []
    if source.own_val_is_test:
        parts.append("test is val of the data, which picks nothing")
    elif source.given_splits != ("train",):
        *others, last = source.given_splits
        parts.append(f"{', '.join(others)} and {last} are the data's own")
    for split in new:
        count = sum(one.split == split for one in stored)
        picks = ", which picks," if source.picks_in_train else ""
        parts.append(f"{split}{picks} is {count:,} images of its train")
    kept = f"; images are kept together by {source.grouping}" if source.grouping else ""
    return "; ".join(parts) + kept


def _digest(stored: Sequence[_Stored], classes: Sequence[str], options: ReadOptions) -> str:
    """Hash what training sees; the images must be in their final order."""
    sha = hashlib.sha256(json.dumps([FORMAT, options.cache_side, classes]).encode())
    for one in stored:
        reading = one.samples.reading if one.samples else ""
        line = f"{one.sha256.hex()} {one.label} {one.split} {reading}".rstrip()
        sha.update(f"{line}\n".encode())
    return sha.hexdigest()


def _write_index(path: Path, stored: Sequence[_Stored]) -> None:
    columns = {name: [getattr(one, name) for one in stored] for name in _SCHEMA.names}
    # File names need not be valid Unicode; here they only help people find an image.
    columns["path"] = [printable(one.path) for one in stored]
    table = pa.table(columns, schema=_SCHEMA)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        writer.write_table(table)
