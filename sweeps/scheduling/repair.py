"""Discard what a damaged file of the store spoils, so that the sweep makes it again.

A result counts as made where its last file is there: taking that away is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from sweeps.planning.cell import Cell
from trainables.storage.artifact_store import Store
from trainables.storage.damage import DamagedFileError, unless_damaged
from trainables.storage.files import Place, children, read_json, write_json
from trainables.training.trunk import TrunkSpec, read_trunk_spec, read_trunk_weights

T = TypeVar("T")


def with_repairs(work: Callable[[], T], store: Store, say: Callable[[str], None]) -> T:
    """Do the work, and again each time that it meets a damaged file whose makings are discarded.

    Args:
        work: finds what is left to do by what the store holds.
        say: shows a line to the user.

    Raises:
        DamagedFileError: the file cannot be made again, or was and is damaged still.
    """
    met: set[Place] = set()
    while True:
        try:
            return work()
        except DamagedFileError as error:
            if error.path in met or not discard(store, error.path):
                raise
            met.add(error.path)
            say(f"{error.what}: it is made again, with what depends on it")


def discard(store: Store, path: Place) -> bool:
    """Discard the result that a damaged file belongs to, and what was made from it.

    Returns:
        Whether the sweep makes it again.
    """
    folder = path.parent
    if folder.parent == store.trunks:
        discard_trunk(store, folder.name)
    elif folder.parent == store.cells:
        (folder / "rows.json").unlink(missing_ok=True)
    elif folder == store.readings_folder:
        path.with_suffix(".json").unlink(missing_ok=True)
    else:
        return False
    return True


def discard_trunk(store: Store, key: str) -> None:
    """Discard a trunk's result, state and weights, and the results of the cells made from it."""
    for name in ("result.json", "state.pt", "trunk.safetensors"):
        (store.trunk(key) / name).unlink(missing_ok=True)
    for folder in children(store.cells):
        spec = unless_damaged(partial(read_json, folder / "spec.json"))
        if not isinstance(spec, dict) or spec.get("trunk") in (None, key):
            (folder / "rows.json").unlink(missing_ok=True)


def check_trunks(store: Store, cells: Sequence[Cell]) -> None:
    """Check the trunks of cells before trials fail on them: their specs, and what is still needed.

    A spec that is damaged is written again. Weights in an object store, which checks them itself,
    are looked for and not downloaded.

    Args:
        cells: all, those that are done included.

    Raises:
        DamagedFileError: the weights of a trunk that has cells left to do are damaged or missing.
    """
    for spec in {cell.trunk.key: cell.trunk for cell in cells}.values():
        mend_spec(store, spec)
    left = (cell for cell in cells if not (store.cell(cell.key) / "rows.json").exists())
    for key in {cell.trunk.key: None for cell in left}:
        weights = store.trunk(key) / "trunk.safetensors"
        if isinstance(weights, Path):
            read_trunk_weights(store, key)
        elif not weights.exists():
            raise DamagedFileError(weights, "it is missing")


def mend_spec(store: Store, spec: TrunkSpec) -> None:
    """Write the spec of a trunk again, if it is damaged or missing."""
    if unless_damaged(lambda: read_trunk_spec(store, spec.key)) is None:
        write_json(store.trunk(spec.key) / "spec.json", spec)
