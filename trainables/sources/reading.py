"""Read a listing as class folders or as tables, whichever it holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from trainables.errors import UserError
from trainables.sources import folders, tables
from trainables.sources.class_names import ClassOrder
from trainables.sources.groups import grouped_as_far_as_found, grouped_by_path
from trainables.sources.layout import LayoutChoice
from trainables.sources.left_out import is_image_name
from trainables.sources.listing import Listing
from trainables.sources.source import Item, Source

# Tells about the images in the folders beside it, as the hub's folders of images have it.
ABOUT_IMAGES = "metadata.parquet"


def read_source(
    listing: Listing,
    scratch: Path,
    layout: LayoutChoice,
    class_order: ClassOrder,
    group_by: str | None = None,
) -> Source:
    """Read a listing as labelled images.

    Args:
        scratch: the folder that tables of an object store are downloaded to.
        group_by: what says which images belong together: a column of tables, or a pattern over the
            paths of files (:func:`trainables.sources.groups.grouped_by_path`).

    Raises:
        UserError: it is not clear what the images, their classes or their splits are.
    """
    if _holds_tables(listing, layout):
        return tables.table_source(listing, scratch, class_order, group_by)
    source = folders.folder_source(listing, layout, class_order)
    return grouped_by_path(source, group_by, listing.root) if group_by else source


def with_own_val_as_test(source: Source) -> Source:
    """Make val of the data the test split, so that a part of train may pick in its place.

    A source with a test split and none of val is fit as it is. One with both, or none, gets a
    note: its splits stay.
    """
    given = set(source.given_splits)
    if given == {"train", "test"}:
        return replace(source, picks_in_train=True)
    if given != {"train", "val"}:
        named = "val and test" if "val" in given else "neither val nor test"
        note = f"The data has {named}: no part of train is held out in place of val."
        return replace(source, notes=(*source.notes, note))

    def items() -> Iterator[Item]:
        for item in source.items():
            yield replace(item, split="test") if item.split == "val" else item

    return replace(
        source,
        items=items,
        given_splits=("train", "test"),
        picks_in_train=True,
        own_val_is_test=True,
    )


def read_extra_source(
    listing: Listing,
    scratch: Path,
    layout: LayoutChoice,
    trained: Sequence[str],
    group_by: str | None = None,
) -> Source:
    """Read a listing as one set of images of classes that a model was trained on.

    Args:
        layout: where the listing holds both class folders and tables, which of them to read: it is
            chosen for the images that are trained on, and further sets may be of the other kind.
        group_by: what says which images belong together, likewise: this set need not have it.

    Raises:
        UserError: as in :func:`read_source`, or a class was not trained on.
    """
    has_tables = any(tables.is_table(entry.path) for entry in listing.files)
    has_folders = bool(_folders_with_images(listing))
    if (layout == "tables" and not has_tables) or (layout == "folders" and not has_folders):
        layout = "auto"
    if _holds_tables(listing, layout):
        return tables.extra_table_source(listing, trained, scratch, group_by)
    source = folders.extra_folder_source(listing, trained, layout)
    return grouped_as_far_as_found(source, group_by) if group_by else source


def _holds_tables(listing: Listing, layout: LayoutChoice) -> bool:
    """Whether a listing is to be read as tables, not as class folders.

    Raises:
        UserError: it may be either.
    """
    found = [entry.path for entry in listing.files if tables.is_table(entry.path)]
    if layout == "tables" and not found:
        raise UserError(
            f"{listing.root} holds no Parquet or Arrow file, though `layout` is tables: set it to"
            " auto or folders."
        )
    if layout != "auto" or not found:
        return layout == "tables"
    with_images = _folders_with_images(listing)
    if len(with_images) < 2:  # a picture or two for a readme are no classes
        return True
    if all(path.rpartition("/")[2].lower() == ABOUT_IMAGES for path in found):
        return False
    raise UserError(
        f"{listing.root} holds both {found[0]} and folders with images, as {with_images[0]}/: move"
        " one of them elsewhere, or set `layout` to folders or tables."
    )


def _folders_with_images(listing: Listing) -> list[str]:
    """List the folders that hold images."""
    above = (e.path.rpartition("/")[0] for e in listing.files if is_image_name(e.path))
    return sorted({folder for folder in above if folder})
