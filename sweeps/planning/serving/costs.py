"""The costs of serving one image: the table that limits, fronts, tables and plots are made from.

A new cost is an entry here, a field of :class:`sweeps.selection.leaderboard.Row` (from
:class:`trainables.profiling.cost.Cost`, if it is known before anything is trained), and an option
in :class:`sweeps.planning.spec.ServingOptions`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sweeps.planning.units import three_digits


@dataclass(frozen=True, kw_only=True)
class ServingCost:
    """A cost of serving, by its field of a row, and how it is written."""

    field: str
    limit: str
    """The field of ServingOptions that bounds it."""
    unit: str
    """Follows the value in a sentence: "1.2 GMACs"."""
    column: str
    """The heading of a table's column."""
    axis: str
    """The label of a plot's axis."""
    decimals: int | None = None
    """Decimals in tables; None: three significant digits."""

    def text(self, value: float | None) -> str:
        """Write a value without its unit; "" where it has not been measured."""
        if value is None:
            return ""
        return three_digits(value) if self.decimals is None else f"{value:.{self.decimals}f}"


SERVING_COSTS = (
    ServingCost(
        field="gmacs",
        limit="max_gmacs",
        unit="GMACs",
        column="GMACs",
        axis="multiply-adds of one image (G)",
    ),
    ServingCost(
        field="params_m",
        limit="max_params_m",
        unit="M parameters",
        column="M params",
        axis="parameters (M)",
        decimals=2,
    ),
    ServingCost(
        field="memory_mb",
        limit="max_memory_mb",
        unit="MB",
        column="MB",
        axis="peak memory of one image (MB)",
    ),
    ServingCost(
        field="latency_ms",
        limit="max_latency_ms",
        unit="ms",
        column="ms",
        axis="latency of a request (ms)",
    ),
)
COST_OF_FIELD = {cost.field: cost for cost in SERVING_COSTS}
