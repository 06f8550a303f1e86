"""The images of a sweep: the user's, or the built-in digits."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sweeps.environment import on_cluster
from sweeps.planning.spec import SweepSpec
from trainables.data import builtin_digits
from trainables.data.decode import Progress, prepare
from trainables.data.image_set import ImageSet
from trainables.storage.files import files_below
from trainables.storage.hashing import content_hash
from trainables.storage.object_store import RemotePath, place_of, remote_path


class Teller(Protocol):
    """Who tells a person: see :class:`sweeps.terminal.console.Terminal`."""

    def say(self, line: str) -> None: ...

    def counting(self, what: str) -> Progress: ...


def open_images(spec: SweepSpec, teller: Teller) -> tuple[ImageSet, Path | RemotePath]:
    """The image set and where it is from; the built-in one is drawn where there is no other."""
    doing, data = "decoding images", None
    if spec.images.data is not None:
        data = place_of(spec.images.data)
    if isinstance(data, RemotePath):
        doing = "downloading and decoding images"
    elif data is not None:
        data = data.resolve()
    else:
        data = _built_in(spec, teller)
    images = prepare(data, spec.cache, spec.read, teller.counting(doing))
    if images.rejected:
        teller.say(
            f"{len(images.rejected)} files cannot be read and are left out (rejected.tsv in --out "
            "names them)"
        )
    for note in images.notes:
        teller.say(note)
    return images, data


def _built_in(spec: SweepSpec, teller: Teller) -> Path | RemotePath:
    """The digits, drawn where every node sees them."""
    drawing = builtin_digits.EmbeddedSpec(seed=spec.run.seed)
    name = f"digits-{content_hash(builtin_digits.VERSION, drawing)}"
    progress = teller.counting("drawing the built-in digits")
    storage = spec.output.storage
    in_out = on_cluster() and storage is None
    folder = (spec.output.out.expanduser() / ".digits" if in_out else spec.cache) / name
    if not on_cluster() or storage is None:
        builtin_digits.make(folder, drawing, progress)
        return folder
    shared = remote_path(storage) / name
    if not (shared / builtin_digits.MARKER).exists():
        builtin_digits.make(folder, drawing, progress)
        _send(folder, shared)
    return shared


def _send(folder: Path, place: RemotePath) -> None:
    """All files below, the one that says that all are there last."""
    pictures = [name for name in files_below(folder) if name != builtin_digits.MARKER]
    place.upload_files(folder, pictures)
    place.upload_files(folder, [builtin_digits.MARKER])
