"""The images of a sweep: the user's, or the built-in digits."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sweeps import embedded
from sweeps.environment import on_cluster
from sweeps.spec import SweepSpec
from trainables.decode import Progress, prepare
from trainables.imageset import ImageSet
from trainables.keys import digest


class Teller(Protocol):
    """Who tells a person: see :class:`sweeps.console.Terminal`."""

    def say(self, line: str) -> None: ...

    def counting(self, what: str) -> Progress: ...


def open_images(spec: SweepSpec, teller: Teller) -> tuple[ImageSet, Path]:
    """The image set and its folder; the built-in one is drawn where there is no other."""
    if spec.images.data is not None:
        data = spec.images.data.expanduser().resolve()
    else:
        base = spec.cache if not on_cluster() else spec.run.out.expanduser() / ".digits"
        drawing = embedded.EmbeddedSpec(seed=spec.run.seed)
        data = base / f"digits-{digest(embedded.VERSION, drawing)}"
        embedded.make(data, drawing, teller.counting("drawing the built-in digits"))
    images = prepare(data, spec.cache, spec.read, teller.counting("decoding images"))
    if images.rejected:
        teller.say(
            f"{len(images.rejected)} files cannot be read and are left out (rejected.tsv in --out "
            "names them)"
        )
    for note in images.notes:
        teller.say(note)
    return images, data
