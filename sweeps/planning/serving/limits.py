"""Limits on the model that may be chosen: list those that are set, and judge rows by them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from sweeps.planning.options.groups import ServingOptions
from sweeps.planning.options.words import option
from sweeps.planning.serving.costs import SERVING_COSTS
from sweeps.planning.units import three_digits
from trainables.errors import UserError
from trainables.profiling.cost import Cost
from trainables.profiling.latency import Conditions


@dataclass(frozen=True, kw_only=True)
class ServingLimit:
    """One limit on the model that may be chosen."""

    name: str  # field of ServingOptions
    limit: float
    unit: str
    cost: str  # field of what is judged: a Cost, or a Row
    measured: str = ""  # with what and where the cost was measured, in words

    @property
    def at_least(self) -> bool:
        """Whether values below the limit are out, rather than values above it."""
        return self.name.startswith("min_")

    def admits(self, judged: object) -> bool:
        """Say whether a cost or a row is within the limit."""
        return self.excess(judged) <= 0

    def excess(self, judged: object) -> float:
        """Return by how much the limit is missed, as a share of it; not above 0: it is kept."""
        value = self.value(judged)
        return (self.limit - value if self.at_least else value - self.limit) / self.limit

    def value(self, judged: object) -> float:
        """Return what the limit bounds of a cost or a row, in its unit."""
        value: float | None = getattr(judged, self.cost)
        assert value is not None, f"{self.cost} has not been measured"
        return value

    def __str__(self) -> str:
        words = f"{self.limit:g} {self.unit}"
        return f"{words} ({self.measured})" if self.measured else words


def limits_set(limits: ServingOptions, latency: Conditions | None = None) -> list[ServingLimit]:
    """List the limits that are set, in the order of the options.

    Args:
        latency: what latency was measured with, which the limit on it then says.
    """
    bounded = {cost.limit: (cost.unit, cost.field) for cost in SERVING_COSTS}
    bounded["min_top1"] = ("val top-1", "ranked_top1")
    options = {field.name: getattr(limits, field.name) for field in fields(limits)}
    return [
        ServingLimit(
            name=name,
            limit=limit,
            unit=bounded[name][0],
            cost=bounded[name][1],
            measured=str(latency) if latency and bounded[name][1] == "latency_ms" else "",
        )
        for name, limit in options.items()
        if limit is not None
    ]


def limits_in_words(limits: ServingOptions) -> str:
    """Write the limits that are set as they stand on the command line; "none": there are none."""
    return ", ".join(f"{option(b.name)} {b.limit:g}" for b in limits_set(limits)) or "none"


def check_limits(limits: ServingOptions, cells: Sequence[tuple[Cost, str, int]]) -> None:
    """Check that the limits that need no training leave at least one cell.

    Args:
        cells: the cost of each, its variant and its test resolution, px.

    Raises:
        UserError: they leave none.
    """
    bounds = [bound for bound in limits_set(limits) if hasattr(cells[0][0], bound.cost)]
    for bound in bounds:
        least, variant, res = min((bound.value(cost), v, r) for cost, v, r in cells)
        if least > bound.limit:
            raise UserError(
                f"{option(bound.name)} {bound.limit} rules out every cell: the least is "
                f"{three_digits(least)} ({variant} at {res} px); raise it, or sweep smaller ones."
            )
    if not any(all(bound.admits(cost) for bound in bounds) for cost, _, _ in cells):
        options = " and ".join(f"{option(bound.name)} {bound.limit}" for bound in bounds)
        raise UserError(
            f"{options} together rule out every cell: raise one of them, or sweep smaller ones."
        )
