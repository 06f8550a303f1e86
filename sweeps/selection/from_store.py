"""Choose among the rows of a sweep, by what its store holds of their predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sweeps.planning.options.groups import ServingOptions
from sweeps.selection.choice import Choice, choose, eligible
from sweeps.selection.cut_trunks import rows_of_cut_trunks
from sweeps.selection.leaderboard import Row
from sweeps.selection.repeats import with_repeats_counted
from sweeps.selection.row_metrics import with_class_metrics
from sweeps.selection.untouched import with_gains_on_untouched
from trainables.evaluation.class_metrics import Metric
from trainables.fixres.cell import judged_classes, recorded_hits
from trainables.fixres.predictions import recorded_classes
from trainables.profiling.latency import Conditions
from trainables.storage.artifact_store import Store


def choose_from_store(
    rows: Sequence[Row],
    limits: ServingOptions,
    store: Store,
    metric: Metric,
    latency: Conditions | None = None,
) -> tuple[list[Row], Choice]:
    """Choose, as :func:`.choose` does.

    Args:
        latency: what the latencies of the rows were measured with, for the reason.

    Returns:
        The rows, each with all metrics, what its repeats came to and its gain on the untouched net,
        and the choice.

    Raises:
        UserError: no row is within the limits.
        DamagedFileError: predictions are damaged or missing.
    """

    def kept(row: Row) -> tuple[np.ndarray, np.ndarray]:
        return recorded_classes(store, row.cell, row.arm)

    def said(row: Row) -> tuple[np.ndarray, np.ndarray]:
        return judged_classes(store, row.cell, row.arm)

    def hits(row: Row) -> np.ndarray:
        return recorded_hits(store, row.cell, row.arm)

    counted = with_repeats_counted(with_class_metrics(rows, kept))
    counted = with_gains_on_untouched(counted, hits)
    cut = rows_of_cut_trunks(store, eligible(counted), hits)
    return counted, choose(counted, limits, hits, metric, said, cut, latency)
