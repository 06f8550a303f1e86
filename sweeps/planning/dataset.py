"""Open the images of a sweep: the user's, or the built-in digits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from sweeps.environment import on_cluster
from sweeps.planning.spec import SweepSpec
from trainables.data import builtin_digits
from trainables.data.decode import Expect, Progress, prepare
from trainables.data.extra_test_sets import ExtraTestSet, open_extra_test_set
from trainables.data.image_set import ImageSet
from trainables.data.stored_hashes import hashes_of
from trainables.errors import UserError, printable
from trainables.near_duplicates.pairs import HashedSet, NearDuplicates, near_duplicates
from trainables.sources.splits import SPLITS
from trainables.storage.files import files_below
from trainables.storage.hashing import content_hash
from trainables.storage.object_store import RemotePath, place_of, remote_path
from trainables.storage.retry import first_line


class Messages(Protocol):
    """Lines and progress for the user: see :class:`sweeps.terminal.console.Terminal`."""

    def say(self, line: str) -> None:
        """Show a line."""

    def counting(self, what: str) -> Progress:
        """Show how far the work named ``what`` is, by the callable that is returned."""


def open_images(
    spec: SweepSpec, messages: Messages, expect: Expect | None = None
) -> tuple[ImageSet, Path | RemotePath]:
    """Open and decode the images of a spec; without ``--data``, draw the built-in digits.

    Args:
        expect: as in :func:`trainables.data.decode.prepare`.

    Returns:
        The image set, and the folder or file that it was read from.

    Raises:
        UserError: the images cannot be used.
    """
    work, data = "decoding images", None
    if spec.images.data is not None:
        data = place_of(spec.images.data)
    if isinstance(data, RemotePath):
        _check_reachable(data, "--data")
        work = "downloading and decoding images"
    elif data is not None:
        data = data.resolve()
    else:
        data = _draw_digits(spec, messages)
    images = prepare(data, spec.cache, spec.read, messages.counting(work), expect=expect)
    if images.rejected:
        messages.say(
            f"{len(images.rejected)} files cannot be read and are left out (rejected.tsv in --out "
            "names them)"
        )
    for note in images.notes:
        messages.say(note)
    return images, data


def check_extra_test_sets(
    spec: SweepSpec, images: ImageSet, messages: Messages
) -> list[ExtraTestSet]:
    """Open and decode the extra test sets, so that what is wrong with one is known at once.

    Says what is left out of each, and how many of its images, or of their groups, the sweep has as
    well.

    Raises:
        UserError: one of them cannot be used.
    """
    opened = []
    for name, where in spec.extra_test_sets.items():
        progress = messages.counting(f"decoding --also-test {name}")
        data = place_of(where)
        if isinstance(data, RemotePath):
            _check_reachable(data, f"--also-test {name}")
        extra = open_extra_test_set(
            name, data, spec.cache, images.classes, spec.read, progress, whites=images.whites
        )
        if extra.rejected:
            messages.say(
                f"--also-test {name}: {len(extra.rejected)} files cannot be read and are left out,"
                f" as {printable(extra.rejected[0].path)} ({extra.rejected[0].reason})"
            )
        for note in extra.notes:
            messages.say(f"--also-test {name}: {note}")
        opened.append(extra)
        hashes = extra.images.hashes()
        for split in SPLITS:
            shared = len(hashes & images.split(split).hashes())
            if shared:
                messages.say(
                    f"--also-test {name}: {shared} image(s) of it are also in {split}, byte for"
                    " byte."
                )
        if spec.images.group_by is not None:
            for line in _shared_groups(spec.images.group_by, extra, images):
                messages.say(f"--also-test {name}: {line}")
    return opened


def _shared_groups(group_by: str, extra: ExtraTestSet, images: ImageSet) -> Iterator[str]:
    """Say which groups of an extra test set are in the splits, or that it has none."""
    if not extra.groups:
        yield (
            f"none of its images has a group by --group-by {group_by}: whether it has images of"
            " groups that train has is not known."
        )
    for split in SPLITS:
        shared = extra.groups.keys() & images.groups(split).keys()
        if shared:
            yield (
                f"{len(shared)} group(s) of it are also in {split}, with"
                f" {sum(extra.groups[group] for group in shared)} image(s) of it."
            )


def find_near_duplicates(images: ImageSet, extra: Sequence[ExtraTestSet]) -> NearDuplicates:
    """Find images of a split, or of an extra test set, that look like one of another split."""
    splits = {name: images.split(name) for name in SPLITS}
    return near_duplicates(
        [HashedSet(name, one.paths(), hashes_of(one)) for name, one in splits.items()],
        [HashedSet(one.name, one.images.paths(), hashes_of(one.images)) for one in extra],
    )


def _check_reachable(data: RemotePath, option: str) -> None:
    try:
        data.check_reachable()
    except OSError as error:
        raise UserError(
            f"{option} {data} cannot be reached ({first_line(error)}): check the address, its "
            "rights and the network."
        ) from None


def _draw_digits(spec: SweepSpec, messages: Messages) -> Path | RemotePath:
    """Draw the built-in digits where every node sees them, once."""
    drawing = builtin_digits.EmbeddedSpec(seed=spec.run.seed)
    name = f"digits-{content_hash(builtin_digits.VERSION, drawing)}"
    progress = messages.counting("drawing the built-in digits")
    storage = spec.output.storage
    in_out = on_cluster() and storage is None
    folder = (spec.output.out.expanduser() / ".digits" if in_out else spec.cache) / name
    if not on_cluster() or storage is None:
        builtin_digits.make(folder, drawing, progress)
        return folder
    shared = remote_path(storage) / name
    if not (shared / builtin_digits.MARKER).exists():
        builtin_digits.make(folder, drawing, progress)
        _upload(folder, shared)
    return shared


def _upload(folder: Path, target: RemotePath) -> None:
    """Upload all files below a folder; the marker, which says that all are there, comes last."""
    pictures = [name for name in files_below(folder) if name != builtin_digits.MARKER]
    target.upload_files(folder, pictures)
    target.upload_files(folder, [builtin_digits.MARKER])
