"""Count trunks that val cut among what val chose from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from sweeps.selection.leaderboard import Row
from trainables.storage.artifact_store import Store
from trainables.storage.damage import unless_damaged
from trainables.storage.files import children
from trainables.storage.hashing import is_key
from trainables.training.rung_hits import best_rung_hits
from trainables.training.trunk import (
    TrunkStatus,
    read_trunk_spec,
    recorded_reports,
    recorded_status,
    trained_epochs,
)


def virtual_row(best: np.ndarray, stayed: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """Say what a trunk that was cut might have come to, image by image: (n,) float.

    That is the best row of the trunk that stayed, moved by as much of the two trunks' difference at
    the rung as lasts: by the slope of the row's hits on those of its trunk at the rung. Where they
    differed by chance, the cut one is as likely a winner on other images; where it was far behind,
    it plays no part.

    Args:
        best: (n,) hits of the row.
        stayed, cut: (n,) hits of the two trunks at the rung.
    """
    at_end, at_rung = best.astype(np.float32), stayed.astype(np.float32)
    variance = float(at_rung.var())
    covariance = float(((at_end - at_end.mean()) * (at_rung - at_rung.mean())).mean())
    lasts = min(1.0, max(0.0, covariance / variance)) if variance > 0 else 0.0
    return at_end + lasts * (cut.astype(np.float32) - at_rung)


def rows_of_cut_trunks(
    store: Store, rows: Sequence[Row], hits: Callable[[Row], np.ndarray]
) -> np.ndarray | None:
    """Make a :func:`virtual_row` of each trunk of the store that was cut.

    Args:
        rows: on val.
        hits: which images of val count for a row's rank.

    Returns:
        (trunks, n) float; None where none was cut, or their hits are not known, as in stores of
        former versions and in what MLflow keeps of a sweep. One whose spec is damaged is left out.
    """
    best_of_point: dict[tuple[str, int], Row] = {}
    for row in sorted(rows, key=lambda r: (r.ranked_hits1, -r.repeat)):
        best_of_point[row.variant, row.train_res] = row
    found = []
    for folder in children(store.trunks):
        if not is_key(folder.name) or recorded_status(store, folder.name) is not TrunkStatus.CUT:
            continue
        trunk = unless_damaged(partial(read_trunk_spec, store, folder.name))
        if trunk is None:
            continue
        best = best_of_point.get((trunk.variant, trunk.train_res))
        if best is None:
            continue
        epoch = trained_epochs(recorded_reports(store, trunk.key))
        stayed, cut = (best_rung_hits(store, key, epoch) for key in (best.trunk, trunk.key))
        if stayed is not None and cut is not None and len(stayed) == len(cut) == best.n:
            found.append(virtual_row(hits(best), stayed, cut))
    return np.stack(found) if found else None
