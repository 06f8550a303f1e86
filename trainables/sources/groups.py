"""Tell which images belong together: by a column of tables, or by a pattern over files' paths."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from trainables.errors import UserError, printable
from trainables.sources.source import Item, Source
from trainables.sources.splits import SPLITS
from trainables.storage.object_store import RemotePath


def grouped_by_path(source: Source, group_by: str, root: Path | RemotePath) -> Source:
    """Put each file into the group that a pattern finds in its path.

    Args:
        group_by: a regular expression with one group in it, looked for anywhere in the path below
            ``root``, as "train/cat/person3_1.jpg"; what the group holds names the images' group.

    Raises:
        UserError: it is no such expression, or no file matches it.
    """
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise UserError(
            f"`group_by` {group_by} is no regular expression ({error}): give one with one group in"
            r" round brackets, such as (person\d+)_."
        ) from error
    if pattern.groups != 1:
        raise UserError(
            f"`group_by` {group_by} has {pattern.groups} groups in round brackets, and files in"
            r" folders need a pattern with one, such as (person\d+)_; (?:...) does not count."
        )
    grouped = _with_groups(source, pattern)
    first = next(source.items(), None)
    if first is not None and all(item.group is None for item in grouped.items()):
        raise UserError(
            f"`group_by` {group_by} matches none of the {source.total} files of {root}, as"
            f" {printable(first.path)}: mend the pattern, which is looked for in such paths."
        )
    return replace(grouped, grouping=f"the pattern {group_by}")


def grouped_as_far_as_found(source: Source, group_by: str) -> Source:
    """Group files as :func:`grouped_by_path`, of a set that need not have groups.

    What groups other images may be a column of tables, which files have none of.
    """
    try:
        pattern = re.compile(group_by)
    except re.error:
        return source
    return _with_groups(source, pattern) if pattern.groups == 1 else source


def _with_groups(source: Source, pattern: re.Pattern[str]) -> Source:
    def with_group(item: Item) -> Item:
        found = pattern.search(item.path)
        return item if found is None else replace(item, group=found[1])

    def items() -> Iterator[Item]:
        return map(with_group, source.items())

    return replace(source, items=items)


def group_notes(
    grouping: str, paths: Sequence[str], groups: Sequence[str | None], splits: Sequence[str]
) -> list[str]:
    """Write sentences on the groups, and on those that lie in several splits.

    Args:
        grouping: in words, what the groups were found by.
        paths, groups, splits: of each image; a group of None: it has none.
    """
    sizes = Counter(group for group in groups if group is not None)
    apart = [path for path, group in zip(paths, groups, strict=True) if group is None]
    if not sizes:
        return [f"By {grouping} none of the readable images has a group: each is its own."]
    least, most = min(sizes.values()), max(sizes.values())
    count = f"{least} image(s)" if least == most else f"{least} to {most} images"
    notes = [f"Images are kept together by {grouping}: {len(sizes)} group(s) of {count}."]
    if apart:
        notes.append(
            f"{len(apart)} image(s) have no group by {grouping}, as {printable(apart[0])}: each is"
            " a group of its own."
        )
    for place, split in enumerate(SPLITS):
        for other in SPLITS[:place]:
            shared = _of(groups, splits, split).keys() & _of(groups, splits, other).keys()
            if shared:
                own = _of(groups, splits, split)
                notes.append(
                    f"{len(shared)} group(s) of {split} are also in {other}, with"
                    f" {sum(own[group] for group in shared)} image(s) of {split}."
                )
    return notes


def count_groups(groups: Sequence[str | None], splits: Sequence[str], split: str) -> int:
    """Count the groups of a split; an image without one is its own."""
    own = [group for group, in_split in zip(groups, splits, strict=True) if in_split == split]
    return len({group for group in own if group is not None}) + own.count(None)


def group_sizes(groups: Sequence[str | None], splits: Sequence[str]) -> dict[str, Counter[str]]:
    """Count the images of each group, by split; those without a group are left out."""
    return {split: _of(groups, splits, split) for split in sorted(set(splits))}


def _of(groups: Sequence[str | None], splits: Sequence[str], split: str) -> Counter[str]:
    """Count the images of each group in a split."""
    pairs = zip(groups, splits, strict=True)
    return Counter(group for group, in_split in pairs if in_split == split and group is not None)
