"""Arms that a cell takes from other cells of the store, instead of working them out again.

The key of a cell names all of its arms and settings of the classifier: with one more of either it
is another cell. But what an arm comes to depends on no other arm, and on these settings only where
it fits a classifier. So a cell of other arms takes those that the store has, from whichever cell.

cells/<key>/kept.json   which cell worked out each arm that was taken, and which has the features
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from trainables.fixres.arms import ARMS
from trainables.fixres.cell import (
    PREDICTIONS,
    ArmResult,
    CellSpec,
    RefitCell,
    crossfit_column,
    delta_path,
    read_delta,
    recorded_results,
    recorded_spec,
    write_predictions,
)
from trainables.fixres.features import NormStatistics
from trainables.fixres.predictions import logits_path
from trainables.models.parts.tensor_names import STATISTICS, statistics_in
from trainables.storage.artifact_store import Store
from trainables.storage.damage import unless_damaged
from trainables.storage.files import (
    children,
    read_batch,
    read_record,
    write_batch,
    write_json,
    write_tensors,
)
from trainables.storage.hashing import content_hash
from trainables.storage.typed import checked

KEPT = "kept.json"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Where a cell finds what it would only make again: keys of other cells."""

    arms: Mapping[str, str] = field(default_factory=dict)
    """By arm the cell that worked it out."""
    features: str | None = None
    """The cell of the same passes that has their features and statistics."""


@dataclass(frozen=True, kw_only=True)
class AdaptedArm:
    """What an arm of a cell came to, beside the files of its own."""

    result: ArmResult
    labels: torch.Tensor  # (n,) int64: of val
    predicted: torch.Tensor  # (n,) int64: classes that it gives val
    crossfit: torch.Tensor | None  # (n,) int64: those that picks of halves of val give


@dataclass(frozen=True, kw_only=True)
class FoundArms:
    """What cells that are not finished may take from others."""

    kept: Mapping[str, Kept]
    """By key of the cell, if there is anything to take."""
    lacking: Mapping[str, tuple[str, ...]]
    """By key of the cell the arms that others worked out, and of which files are gone."""


def read_kept(store: Store, key: str) -> Kept:
    """Read what a cell may take from others; nothing where that is damaged or not known."""
    path = store.cell(key) / KEPT
    return unless_damaged(lambda: read_record(path, lambda v: checked(Kept(**v)))) or Kept()


def origin(store: Store, key: str, arm: str) -> str:
    """Return the key of the cell that worked an arm out: another's where the arm was taken."""
    return read_kept(store, key).arms.get(arm, key)


def find_kept(store: Store, cells: Sequence[CellSpec]) -> FoundArms:
    """Find what cells that are not finished may take from others.

    Args:
        cells: all of a plan; of other cells in the store the specs are read.
    """
    own = {cell.key for cell in cells}
    left = [cell for cell in cells if not (store.cell(cell.key) / "rows.json").exists()]
    makers: dict[str, str] = {}  # the cell that worked it out, by what it depends on
    gone: set[str] = set()  # the same, where files of it are
    passes: dict[str, list[str]] = defaultdict(list)
    for folder in children(store.cells) if left else ():
        spec = None if folder.name in own else _finished_spec(store, folder.name)
        if spec is None:
            continue
        origins = read_kept(store, folder.name).arms
        for arm in (arm for arm in spec.arms if arm in ARMS):  # else of an earlier version
            if _has_files(store, folder.name, arm):
                makers.setdefault(_basis(spec, arm), origins.get(arm, folder.name))
            else:
                gone.add(_basis(spec, arm))
        passes[_basis(spec)].append(folder.name)
    kept, lacking = {}, {}
    for cell in left:
        arms = {arm: _basis(cell, arm) for arm in cell.arms}
        taken = {arm: makers[basis] for arm, basis in arms.items() if basis in makers}
        found = Kept(arms=taken, features=_with_features(store, passes[_basis(cell)]))
        if found != Kept():
            kept[cell.key] = found
        if lost := tuple(a for a, basis in arms.items() if basis in gone and a not in taken):
            lacking[cell.key] = lost
    return FoundArms(kept=kept, lacking=lacking)


def _has_files(store: Store, key: str, arm: str) -> bool:
    """Whether a cell has what an arm changed and gives val: --keep may have deleted it."""
    changed = not ARMS[arm].changes or delta_path(store, key, arm).exists()
    return changed and (not ARMS[arm].plain or logits_path(store, key, arm).exists())


def take_from_others(store: Store, cells: Sequence[CellSpec]) -> None:
    """Finish the cells of which other cells have all arms, and note for the rest what these have.

    Args:
        cells: all of a plan.
    """
    specs = {cell.key: cell for cell in cells}
    for key, kept in find_kept(store, cells).kept.items():
        write_json(store.cell(key) / KEPT, kept)
        if set(kept.arms) == set(specs[key].arms):
            _finish(store, specs[key])


def taken_arms(store: Store, cell: CellSpec) -> dict[str, AdaptedArm]:
    """Take the arms that other cells have into the folder of a cell: by name, if there are any.

    One whose files are damaged or gone is left out, which a warning tells.
    """
    if isinstance(cell, RefitCell):
        return {}
    kept, found = read_kept(store, cell.key), {}
    for arm in (name for name in ARMS if name in kept.arms and name in cell.arms):
        taken = unless_damaged(partial(_take, store, cell.key, kept.arms[arm], arm))
        if taken is not None:
            found[arm] = taken
    if len(found) < len(kept.arms):
        arms = {arm: kept.arms[arm] for arm in found}
        write_json(store.cell(cell.key) / KEPT, Kept(arms=arms, features=kept.features))
    return found


def write_arms(store: Store, cell: CellSpec, arms: Sequence[AdaptedArm]) -> list[ArmResult]:
    """Write what the arms of a cell give val, its spec, and last the results, which it returns.

    Args:
        arms: all of the cell, in the table's order; none of a refit, which has no val.
    """
    folder, results = store.cell(cell.key), [arm.result for arm in arms]
    if arms:
        predicted = {arm.result.arm: arm.predicted for arm in arms}
        crossfit = {arm.result.arm: arm.crossfit for arm in arms if arm.crossfit is not None}
        write_predictions(folder / PREDICTIONS, arms[0].labels, predicted, crossfit)
    write_json(folder / "spec.json", cell)
    write_json(folder / "rows.json", results)
    return results


def kept_statistics(store: Store, key: str) -> NormStatistics | None:
    """Read the re-estimated statistics that a cell's arms were given; None: there are none."""
    spec = _finished_spec(store, key)
    for arm in (arm for arm in spec.arms if arm in ARMS) if spec else ():
        if STATISTICS in ARMS[arm].changes:
            delta = unless_damaged(partial(read_delta, store, key, arm))
            found = [] if delta is None else [delta[n].double() for n in statistics_in(delta)]
            if found:
                return NormStatistics(*found)
    return None


def _basis(cell: CellSpec, arm: str | None = None) -> str:
    """Hash all that an arm of a cell depends on; no arm: all that the passes of the net do."""
    passes = [cell.trunk, cell.transform, cell.batch_size, cell.seed]
    passes += [] if cell.prefix is None else [cell.prefix]
    if arm is None:
        return content_hash("passes", *passes)
    heads = cell.heads if ARMS[arm].fits_classifier else None
    views = cell.views if ARMS[arm].needs_mild_views else None
    in_transform = cell.none_in_transform if arm == "none" else None
    return content_hash(arm, *passes, heads, views, in_transform)


def _with_features(store: Store, keys: Sequence[str]) -> str | None:
    """Return the cell that has most features: those of train take longest; None: none has any."""

    def having(key: str) -> tuple[bool, bool]:
        whole, first_shard, val = (
            (store.cell(key) / f"{name}.arrow").exists() for name in ("train", "train-00000", "val")
        )
        return whole or first_shard, val

    best = max(keys, key=having, default=None)
    return best if best is not None and any(having(best)) else None


def _finished_spec(store: Store, key: str) -> CellSpec | None:
    if not (store.cell(key) / "rows.json").exists():
        return None
    return recorded_spec(store, key)


def _finish(store: Store, cell: CellSpec) -> None:
    """Finish a cell of which other cells have all arms, if they are whole."""
    arms = taken_arms(store, cell)
    if set(arms) != set(cell.arms):
        return
    write_arms(store, cell, [arms[name] for name in ARMS if name in arms])


def _take(store: Store, key: str, maker: str, arm: str) -> AdaptedArm | None:
    """Copy what an arm has changed and what it gives val into a cell; None: it is not there.

    Raises:
        DamagedFileError: a file is damaged or missing.
    """
    results = recorded_results(store, maker) or ()
    result = next((result for result in results if result.arm == arm), None)
    if result is None:
        return None
    predictions = _present(lambda: read_batch(store.cell(maker) / PREDICTIONS))
    if predictions is None or arm not in predictions.schema.names:
        return None
    if ARMS[arm].changes:
        write_tensors(delta_path(store, key, arm), read_delta(store, maker, arm))
    logits = _present(lambda: read_batch(logits_path(store, maker, arm)))
    if logits is not None:
        write_batch(logits_path(store, key, arm), logits)
    elif ARMS[arm].plain:
        return None  # those of a cell that lost are deleted by --keep
    columns = {name: torch.tensor(predictions[name].to_numpy()) for name in ("label", arm)}
    column = crossfit_column(arm)
    picked = column in predictions.schema.names
    return AdaptedArm(
        result=result,
        labels=columns["label"],
        predicted=columns[arm],
        crossfit=torch.tensor(predictions[column].to_numpy()) if picked else None,
    )


def _present(read: Callable[[], Any]) -> Any | None:
    try:
        return read()
    except FileNotFoundError:
        return None
