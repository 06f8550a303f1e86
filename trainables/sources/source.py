"""Describe a data source: labelled images that are not read yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trainables.sources.listing import StoredFile
from trainables.sources.splits import SPLITS


@dataclass(frozen=True, kw_only=True)
class Item:
    """One labelled image, not decoded yet."""

    path: str  # for messages: relative path, with "#row" in a table
    label: int
    split: str
    content: bytes | Path | StoredFile | None  # None: it cannot be read, for this reason
    reason: str = ""
    group: str | None = None  # of images that belong together; None: it is alone


@dataclass(frozen=True, kw_only=True)
class Source:
    """Labelled images, in no particular order."""

    classes: tuple[str, ...]
    total: int  # images, readable or not
    given_splits: tuple[str, ...]  # that the data comes with
    layout: str  # words for the user: how it is laid out
    notes: tuple[str, ...]  # sentences for the user
    items: Callable[[], Iterator[Item]]
    sample: Callable[[], Iterator[Item]]  # up to a few hundred items, to estimate sizes
    required_splits: tuple[str, ...] = SPLITS
    scratch_bytes: int = 0  # that lie on the disk beside the decoded images while it is read
    picks_in_train: bool = False  # val is to be a part of train, held out to pick
    own_val_is_test: bool = False  # what is test here is the data's own val
    grouping: str = ""  # what groups were found by, in words; empty: not asked for
