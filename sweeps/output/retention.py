"""Delete what a finished sweep needs no longer: checkpoints and logits that lost, all features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from sweeps.selection.choice import Choice, known_costs, pareto_front
from sweeps.selection.leaderboard import Row
from sweeps.selection.untouched import untouched_of
from trainables.errors import UserError
from trainables.fixres.cell import delta_path
from trainables.storage.artifact_store import Store
from trainables.storage.files import Place, children, file_size

FEATURES = ("train*.arrow", "train*.safetensors", "val.arrow")  # also of passes cut off
OF_ARMS = ("delta-*.safetensors", "logits-*.arrow")


@dataclass(frozen=True, kw_only=True)
class RetainedKeys:
    """Keys in the store of the trunks and cells whose checkpoints stay."""

    trunks: frozenset[str]
    cells: frozenset[str]
    everything: bool = False
    """Nothing is deleted."""


def keys_to_retain(
    rows: Sequence[Row], choice: Choice, keep: str, *, refit: bool = False
) -> RetainedKeys:
    """Decide which trunks and cells stay.

    Args:
        rows: the leaderboard of the finished sweep.
        keep: "best": the chosen row's trunk and cell; "front": also those of every Pareto front;
            "all": everything.
        refit: whether the chosen net was trained again: then what trunks started from stays, for
            another choice. Else the untouched net that it is counted from stays: it is read on
            every further test set.
    """
    retained = {choice.row}
    untouched = None if refit else untouched_of(choice.row, rows)
    retained |= {untouched} if untouched else set()
    if keep == "front":
        val = [r for r in rows if r.split == "val"]
        retained |= {row for c in known_costs(val) for row in pareto_front(val, c, choice.metric)}
    # Rows on held-out sets belong to the net that is handed over; a refit has a trunk of its own.
    retained |= {row for row in rows if row.split != "val"}
    parents = {row.parent for row in retained if refit and row.parent}
    return RetainedKeys(
        trunks=frozenset(row.trunk for row in retained) | parents,
        cells=frozenset(row.cell for row in retained),
        everything=keep == "all",
    )


def deletable_files(store: Store, retained: RetainedKeys) -> list[Place]:
    """List the files that may be deleted: checkpoints and logits of all else, and all features.

    Rows and predictions stay, so that a choice may still be made among them.
    """
    if retained.everything:
        return []
    files: list[Place] = []
    for folder in children(store.trunks):
        if folder.name not in retained.trunks:
            files.append(folder / "trunk.safetensors")
    for folder in children(store.cells):
        kinds = FEATURES if folder.name in retained.cells else FEATURES + OF_ARMS
        files += [p for p in children(folder) if any(fnmatch(p.name, kind) for kind in kinds)]
    return [path for path in files if path.exists()]


def prune(store: Store, retained: RetainedKeys) -> int:
    """Delete the files of :func:`deletable_files`.

    Returns:
        The number of bytes that were freed.
    """
    freed = 0
    for path in deletable_files(store, retained):
        freed += file_size(path)
        path.unlink()
    return freed


def is_pruned(store: Store, row: Row, changes: bool) -> bool:
    """Whether checkpoints of a row are not in the store any more.

    Args:
        changes: the row's arm changes weights, so that it has a checkpoint beside the trunk's.
    """
    files = [store.trunk(row.trunk) / "trunk.safetensors"]
    if changes:
        files.append(delta_path(store, row.cell, row.arm))
    return not all(path.exists() for path in files)


def check_not_pruned(store: Store, row: Row, changes: bool) -> None:
    """Check that the checkpoints of a row are in the store; arguments as of :func:`is_pruned`.

    Raises:
        UserError: the row's checkpoints were pruned.
    """
    if is_pruned(store, row, changes):
        raise UserError(
            f"The checkpoints of {row.label}, arm {row.arm}, were pruned (--keep): choose among "
            "what was kept, or run the sweep again with --keep all in another folder."
        )
