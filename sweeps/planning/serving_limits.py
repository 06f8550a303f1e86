"""Limits on the model that may be chosen, and whether a row or a cost is within them. Pure."""

from __future__ import annotations

from dataclasses import dataclass, fields

from sweeps.planning.serving_costs import SERVING_COSTS
from sweeps.planning.spec import ServingOptions, option


@dataclass(frozen=True, kw_only=True)
class ServingLimit:
    """One limit on the model that may be chosen."""

    name: str  # of the option
    limit: float
    unit: str
    cost: str  # field of what is judged: a cost, or a row

    @property
    def at_least(self) -> bool:
        return self.name.startswith("min_")

    def admits(self, one: object) -> bool:
        return self.excess(one) <= 0

    def excess(self, one: object) -> float:
        """By which share of itself the limit is missed."""
        value = self.value(one)
        return (self.limit - value if self.at_least else value - self.limit) / self.limit

    def value(self, one: object) -> float:
        value: float | None = getattr(one, self.cost)
        assert value is not None, f"{self.cost} has not been measured"
        return value

    def __str__(self) -> str:
        return f"{self.limit:g} {self.unit}"


def limits_set(limits: ServingOptions) -> list[ServingLimit]:
    """List the limits that are set, in the order of the options."""
    known = {cost.limit: (cost.unit, cost.field) for cost in SERVING_COSTS}
    known["min_top1"] = ("val top-1", "top1")
    options = {option.name: getattr(limits, option.name) for option in fields(limits)}
    return [
        ServingLimit(name=name, limit=limit, unit=known[name][0], cost=known[name][1])
        for name, limit in options.items()
        if limit is not None
    ]


def limits_in_words(limits: ServingOptions) -> str:
    """The limits that are set, as they were asked for."""
    return ", ".join(f"{option(b.name)} {b.limit:g}" for b in limits_set(limits)) or "none"
