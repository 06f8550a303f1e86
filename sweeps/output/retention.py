"""What of a finished sweep may go: checkpoints that lost, and features that have served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from sweeps.selection.choice import known_costs, pareto_front
from sweeps.selection.leaderboard import Row
from trainables.errors import UserError
from trainables.fixres.cell import delta_path
from trainables.storage.artifact_store import Store
from trainables.storage.files import Place, children, file_size

FEATURES = ("train.arrow", "val.arrow")


@dataclass(frozen=True, kw_only=True)
class RetainedKeys:
    """Keys in the store of what stays."""

    trunks: frozenset[str]
    cells: frozenset[str]
    everything: bool = False


def keys_to_retain(rows: Sequence[Row], chosen: Row, keep: str) -> RetainedKeys:
    """The chosen row's trunk and cell; with "front" also those of every Pareto front."""
    stay = {chosen}
    if keep == "front":
        val = [r for r in rows if r.split == "val"]
        stay |= {row for cost in known_costs(val) for row in pareto_front(val, cost)}
    # A finished sweep's other rows are of what was read in the end: that is handed over.
    stay |= {row for row in rows if row.split != "val"}
    return RetainedKeys(
        trunks=frozenset(row.trunk for row in stay),
        cells=frozenset(row.cell for row in stay),
        everything=keep == "all",
    )


def deletable_files(store: Store, stay: RetainedKeys) -> list[Place]:
    """The files that may go: the checkpoints of all else, and all features. Rows and predictions
    stay: a choice may still be made among them."""
    if stay.everything:
        return []
    files: list[Place] = []
    for folder in children(store.trunks):
        if folder.name not in stay.trunks:
            files.append(folder / "trunk.safetensors")
    for folder in children(store.cells):
        files += [folder / name for name in FEATURES]
        if folder.name not in stay.cells:
            files += [p for p in children(folder) if fnmatch(p.name, "delta-*.safetensors")]
    return [path for path in files if path.exists()]


def prune(store: Store, stay: RetainedKeys) -> int:
    """Delete them; how many bytes are free now."""
    freed = 0
    for path in deletable_files(store, stay):
        freed += file_size(path)
        path.unlink()
    return freed


def check_not_pruned(store: Store, row: Row, changes: bool) -> None:
    """Raises:
    UserError: the row's checkpoints were pruned.
    """
    files = [store.trunk(row.trunk) / "trunk.safetensors"]
    if changes:
        files.append(delta_path(store, row.cell, row.arm))
    if not all(path.exists() for path in files):
        raise UserError(
            f"The checkpoints of {row.label} px, arm {row.arm}, were pruned (--keep): choose among "
            "what was kept, or run the sweep again with --keep all in another folder."
        )
