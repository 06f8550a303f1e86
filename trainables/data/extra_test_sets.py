"""Open extra test sets: labelled images that a finished model is scored on, not chosen on.

What a fix gains at its resolution it may lose on shifted images, such as ImageNet-v2, -R or
-Sketch. They are decoded into the cache as the sweep's own images are, once per node.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trainables.data.decode import Progress, decode_once
from trainables.data.image_set import Rejected, SplitImages
from trainables.data.locks import let_go
from trainables.data.options import ReadOptions
from trainables.errors import UserError
from trainables.sources.listing import Listing
from trainables.sources.reading import read_extra_source
from trainables.sources.source import Source
from trainables.sources.splits import SPLITS
from trainables.storage.object_store import RemotePath


@dataclass(frozen=True, kw_only=True)
class ExtraTestSet:
    """All readable images of a folder as one set. Small to pickle: the pixels stay in the cache."""

    name: str
    images: SplitImages
    """Labels are positions in the trained classes."""
    digest: str
    """Names the trained classes, images, labels and stored size, whatever the files are called."""
    present: tuple[int, ...]
    """The labels that occur, ascending."""
    rejected: tuple[Rejected, ...]
    notes: tuple[str, ...]
    """Sentences to show to the user."""
    groups: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Images of each group, by its name; none where images were not grouped."""


def open_extra_test_set(
    name: str,
    data: Path | RemotePath,
    cache: Path,
    classes: Sequence[str],
    options: ReadOptions,
    progress: Progress | None = None,
    *,
    whites: Mapping[str, int],
) -> ExtraTestSet:
    """Find, check and decode an extra test set; images that the cache holds are not read again.

    Args:
        name: what the set is called in results.
        data: a folder with class folders, or with split folders above them, which are put together;
            or Parquet or Arrow files; here or in an object store. Some of the classes suffice.
        cache: the folder that decoded images go to; on this node.
        classes: the trained classes, in the order of the model's outputs.
        options: how many unreadable files are tolerated, and the stored size.
        progress: called with images done and images in all, while they are decoded.
        whites: those of the trained set (:attr:`ImageSet.whites`): a model sees images as they
            were in its training.

    Raises:
        UserError: the name is a split's, a class was not trained on, or the images or the cache
            folder are not usable.
        SweepError: a store did not answer for long.
    """
    if name in SPLITS:
        raise UserError(f"A further set cannot be called {name}: give it a name of its own.")

    def source_of(listing: Listing, scratch: Path) -> Source:
        return read_extra_source(listing, scratch, options.layout, classes, options.group_by)

    # "further" names such sets in the cache. Groups decide on nothing else, and are left out where
    # they are not asked for: so older listings are found.
    groups = () if options.group_by is None else ({"groups": options.group_by},)
    settings = ("further", tuple(classes), *groups)
    decoded = decode_once(data, cache, options, settings, source_of, progress, whites=whites)
    images = decoded.split("test")
    weakref.finalize(images, let_go, decoded.root)  # the cache may drop it once nothing maps it
    return ExtraTestSet(
        name=name,
        images=images,
        digest=decoded.digest,
        present=tuple(np.unique(images.labels).tolist()),
        rejected=decoded.rejected,
        notes=decoded.notes,
        groups=decoded.groups("test"),
    )
