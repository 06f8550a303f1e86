"""Decode labelled images once per node into a memory-mapped uint8 cache.

Training then reads pixels without decoding, and all processes of a node share the same pages. Where
there is no room for the pixels, the cache keeps the images' files instead, about a tenth of them,
and an image is decoded when it is used: to the same pixels. The cache
(:mod:`trainables.data.cache`) is local to a node: all processes that write it must see each other's
locks.

    CACHE/<digest>/pixels.bin    H x W x 3 uint8 RGB of each image, one after another; or
    CACHE/<digest>/files.bin     the bytes of each image's file
    CACHE/<digest>/index.arrow   one row for each image: where, how large, label, split, hash
    CACHE/<digest>/perceptual-1.npy    its perceptual hash, four uint64
    CACHE/<digest>/images.json   classes, how long the first must be, white by kind of image, form
    CACHE/listings/<key>.json    the digest that a listing led to, rejected files, layout, notes
    CACHE/listings/<key>.groups.json    the images of each group, by split, where they are grouped
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from trainables.data.cache import (
    GrowingFile,
    NoRoomError,
    draft_folder,
    locked,
    make_room,
    set_limit,
    write_errors,
)
from trainables.data.decode_pass import (
    FORMAT,
    GROUPS,
    Decoding,
    check_rejected,
    decode_into,
    new_shares,
)
from trainables.data.decode_pool import ExpectedImages, expected_images
from trainables.data.image_set import FILES, Form, ImageSet, Rejected
from trainables.data.locks import hold
from trainables.data.options import ReadOptions
from trainables.data.pixels import reads_heic
from trainables.errors import UserError, is_utf8, printable
from trainables.sources import folders
from trainables.sources.downloads import scan_store
from trainables.sources.listing import Listing
from trainables.sources.reading import read_source, with_own_val_as_test
from trainables.sources.source import Source
from trainables.storage.object_store import RemotePath

INDEX_ROW_BYTES = 160  # about, with the perceptual hash
READING = 2  # raise it when the same listing may lead to other images

Progress = Callable[[int, int], None]
Expect = Callable[[ExpectedImages], Form]


def prepare(
    data: Path | RemotePath,
    cache: Path,
    options: ReadOptions,
    progress: Progress | None = None,
    *,
    expect: Expect | None = None,
    patient: bool = False,
) -> ImageSet:
    """Find, check, split and decode labelled images; those that the cache holds are not read again.

    Args:
        data: a folder with class folders, or with train/, val/ and test/ above them; or a Parquet
            or Arrow file, or a folder of such files; here or in an object store.
        cache: the folder that decoded images go to; on this node.
        options: how images are split and stored.
        progress: called with images done and images in all, while they are decoded.
        expect: called before any image is decoded, with what they will come to; gives the form to
            keep them in, of which pixels may find no room yet; what it raises ends the reading.
        patient: whether to wait for a store that does not answer, already for its listing.

    Raises:
        UserError: the images or the cache folder are not usable; the message says why.
        SweepError: a store did not answer for long.
    """

    def source_of(listing: Listing, scratch: Path) -> Source:
        source = read_source(
            listing, scratch, options.layout, options.class_order, options.group_by
        )
        return source if options.pick_share is None else with_own_val_as_test(source)

    settings = _split_settings(options)
    return decode_once(
        data, cache, options, settings, source_of, progress, expect=expect, patient=patient
    )


def _split_settings(options: ReadOptions) -> tuple[object, ...]:
    """List the settings that decide on splits and labels.

    Those that came later are left out where they are off, so that older listings are found.
    """
    settings = (options.val_share, options.test_share, options.seed, options.class_order)
    # Listings under the name "group_by" are older, and have not counted the groups.
    later = {"pick_share": options.pick_share, "groups": options.group_by}
    return (*settings, *({name: value} for name, value in later.items() if value is not None))


def known_set(cache: Path, digest: str, options: ReadOptions) -> ImageSet | None:
    """Open the set of that digest if the cache has it, whatever it was decoded from.

    The data is not listed, so the set comes without rejected files and notes.
    """
    cache = cache.absolute()
    set_limit(cache, options.cache_gb)
    root = cache / digest
    description = _sound_description(root) if hold(root) else None
    return None if description is None else _opened(root, description, (), ())


def decode_once(
    data: Path | RemotePath,
    cache: Path,
    options: ReadOptions,
    settings: Sequence[object],
    source_of: Callable[[Listing, Path], Source],
    progress: Progress | None = None,
    *,
    expect: Expect | None = None,
    whites: Mapping[str, int] | None = None,
    patient: bool = False,
) -> ImageSet:
    """Open the set that the cache holds of the data; decode it first where there is none.

    The set is held (:func:`trainables.data.locks.hold`) until this process ends.

    Args:
        data, cache, options, progress, expect, patient: as in :func:`prepare`.
        settings: what the set depends on beside the files and the stored size.
        source_of: finds the labelled images of a listing; its second argument is the folder for
            what it has to download. It is not called where the cache has the set.
        whites: the value that is white by kind of image, where samples have more than eight bits;
            None: what holds the values of all images of the kind in this set.

    Raises:
        UserError: the images or the cache folder are not usable; the message says why.
        SweepError: a store did not answer for long.
    """
    _check_name(data, str(data))
    cache = cache.absolute()  # other processes, in other folders, reopen what is opened here
    listing = _scan(data, cache, patient)
    with write_errors(cache, "another disk"):
        set_limit(cache, options.cache_gb)
    readers = {"whites": whites, "heic": reads_heic()}
    key = listing.digest(FORMAT, READING, options.layout, *settings, options.cache_side, readers)
    image_set = _look_up(cache, key, data, options)
    if image_set is not None:
        return image_set
    with locked(cache):
        image_set = _look_up(cache, key, data, options)  # another process may have been faster
        if image_set is not None:
            return image_set
        draft = cache / f"tmp-{uuid.uuid4().hex}"
        source = source_of(listing, draft / "files")
        for name in source.classes:
            _check_name(data, name)
        expected = expected_images(source, options.cache_side, new_shares(source, options))
        form: Form = "decoded" if expect is None else expect(expected)
        decoding = Decoding(
            data=data, source=source, options=options, whites=whites, progress=progress
        )
        decode = partial(_decode, draft, cache, key, decoding)
        if form == "decoded":
            try:
                decode(form, expected.stored_bytes)
            except NoRoomError:
                if expected.file_bytes >= expected.stored_bytes:
                    raise
                form = "encoded"
        if form == "encoded":
            decode(form, expected.file_bytes)
        image_set = _look_up(cache, key, data, options)
    assert image_set is not None, "what was just written must be there"
    return image_set


def _decode(
    draft: Path, cache: Path, key: str, decoding: Decoding, form: Form, needed: int
) -> None:
    """Decode a source into a set of the cache.

    Args:
        draft: the folder that the set is made in.
        key: names what the listing led to.
        decoding: of what, and how.
        form: what is kept of the images.
        needed: bytes that it takes, about.

    Raises:
        NoRoomError: the cache has no room for it.
    """
    source = decoding.source
    request = decoding.options.space_request(source.total)
    extra = INDEX_ROW_BYTES * source.total + source.scratch_bytes
    make_room(cache, needed + extra, request)
    with write_errors(cache, request.smaller), draft_folder(draft):
        with (draft / FILES[form]).open("wb", buffering=0) as opened:
            file = GrowingFile(opened, cache, needed, request)
            record = decode_into(draft, form, file, decoding)
        _publish(draft, cache, key, record)


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
        description = _sound_description(root) if hold(root) else None
        rejected = tuple(Rejected(**one) for one in record["rejected"])
        total, notes, layout = record["total"], tuple(record["notes"]), record["layout"]
    except (OSError, ValueError, KeyError, TypeError):  # missing, or damaged
        return None
    if description is None:
        return None
    groups_path = None if options.group_by is None else _groups_path(cache, key)
    if groups_path is not None and not _holds_groups(groups_path):
        return None
    check_rejected(rejected, total, data, options)
    # What is said of the form belongs to the set: another listing may have led to it.
    notes += (description["note"],) if "note" in description else ()
    image_set = _opened(root, description, rejected, notes, layout)
    return replace(image_set, splits_in_words=record.get("splits", ""), groups_path=groups_path)


def _opened(
    root: Path,
    description: Mapping[str, Any],
    rejected: tuple[Rejected, ...],
    notes: tuple[str, ...],
    layout: str = "",
) -> ImageSet:
    return ImageSet(
        root=root,
        digest=root.name,
        classes=tuple(description["classes"]),
        rejected=rejected,
        notes=notes,
        whites=description.get("whites", {}),
        layout=layout,
    )


def _sound_description(root: Path) -> dict[str, Any] | None:
    """Read images.json of a decoded set; None where the set is missing or was cut short."""
    try:
        description: dict[str, Any] = json.loads((root / "images.json").read_text())
        file = root / FILES[description.get("form", "decoded")]
        is_whole = file.stat().st_size == description["bytes"]
        is_sound = is_whole and "classes" in description and (root / "index.arrow").exists()
        return description if is_sound else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _groups_path(cache: Path, key: str) -> Path:
    return cache / "listings" / f"{key}.groups.json"


def _holds_groups(path: Path) -> bool:
    """Whether a file holds what was written of groups: their images, by split."""
    try:
        by_split = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(by_split, dict) and all(
        isinstance(sizes, dict) and all(type(size) is int for size in sizes.values())
        for sizes in by_split.values()
    )


def _check_name(data: Path | RemotePath, name: str) -> None:
    """Refuse a name that no result could be written with.

    Raises:
        UserError: it is no UTF-8.
    """
    if not is_utf8(name):
        raise UserError(
            f"{printable(str(data))} has a name that is not UTF-8 ({printable(name)}): rename it, "
            "for example with convmv."
        )


def _publish(draft: Path, cache: Path, key: str, record: dict[str, Any]) -> None:
    """Give the draft its final name, then record what the listing led to: each in one step."""
    root = cache / record["digest"]
    listings = cache / "listings"
    listings.mkdir(exist_ok=True)
    if (draft / GROUPS).exists():
        (draft / GROUPS).replace(_groups_path(cache, key))
    if _sound_description(root) is None:
        shutil.rmtree(root, ignore_errors=True)
        draft.rename(root)
    temporary = listings / f"{key}.tmp"
    temporary.write_text(json.dumps(record))
    temporary.replace(listings / f"{key}.json")
