"""Predict what a whole plan takes, before it begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from sweeps.events.durations import Durations
from sweeps.planning.plan import Plan
from sweeps.planning.workload import baseline_nets, expected_trunks, planned_cells, probes
from trainables.storage.artifact_store import Store
from trainables.storage.damage import unless_damaged
from trainables.storage.files import read_record, write_json
from trainables.storage.typed import checked


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Seconds that trials are predicted to take, added up also where they run side by side."""

    trunks_s: float
    """Of all trunks, if each rung lets 1/reduction of a point's trunks go on."""
    trunks_most_s: float
    """Of all trunks, if none is cut."""
    cells_s: float
    reading_s: float
    """Of scoring a net of the plan, the mean one, on the test split; and likewise an untouched one
    that it is compared with."""
    close_s: float
    """From the command to its first trial, and from the last cell to the end, without readings."""
    refit_s: float = 0.0
    """Of training a net of the plan again, the mean one; 0 without ``--refit``."""
    device: str
    """That was timed; empty: none, and the seconds are a nominal device's."""

    @property
    def total_s(self) -> float:
        """Seconds of all of it, one trial at a time."""
        return self.trunks_s + self.cells_s + self.reading_s + self.refit_s + self.close_s


def forecast(plan: Plan, durations: Durations) -> Forecast:
    """Predict what a plan takes, none of it done."""
    trunks_s = trunks_most_s = 0.0
    for point in plan.points:
        if count := probes(plan, point):
            probes_s = count * durations.probe_s(point)
            trunks_s, trunks_most_s = trunks_s + probes_s, trunks_most_s + probes_s
        for epoch in range(1, plan.epochs_at(point) + 1):
            seconds = durations.epoch_s(point, epoch)
            trunks_s += seconds * expected_trunks(plan, point, epoch)
            trunks_most_s += seconds * plan.trunks_at(point)
    cells = planned_cells(plan)
    return Forecast(
        trunks_s=trunks_s,
        trunks_most_s=trunks_most_s,
        cells_s=sum(n * durations.cell_s(*kind) for kind, n in cells.items()),
        reading_s=_mean_reading_s(plan, durations, [(variant, res) for variant, res, _ in cells])
        + _mean_reading_s(plan, durations, baseline_nets(plan)),
        refit_s=_mean_refit_s(plan, durations) if plan.spec.evaluation.refit else 0.0,
        close_s=durations.boot_s + durations.spawn_s + durations.close_s,
        device=durations.device if durations.is_measured else "",
    )


def _mean_refit_s(plan: Plan, durations: Durations) -> float:
    """Predict a refit, the mean over what may be chosen."""
    tests = plan.grid.tests.items()
    return fmean(durations.refit_s(point, res) for point, own in tests for res in own)


def _mean_reading_s(plan: Plan, durations: Durations, nets: Sequence[tuple[str, int]]) -> float:
    """Predict the scoring of a net on the test split, the mean over nets; 0 where there are none.

    Args:
        nets: variants, and test resolutions in px.
    """
    test = plan.counts["test"]
    return fmean([durations.reading_s(variant, res, test) for variant, res in nets] or [0.0])


def first_forecast(store: Store, plan: Plan, durations: Durations) -> Forecast:
    """Read what the sweep was predicted to take when it began, or predict and write it now."""
    found = unless_damaged(lambda: read_record(store.forecast, _from_json))
    if found is None:
        found = forecast(plan, durations)
        write_json(store.forecast, found)
    return found


def _from_json(value: Mapping[str, Any]) -> Forecast:
    """Read a forecast from its JSON; raises anything for what is none."""
    return checked(Forecast(**value))
