"""The limits on what may be chosen, and whether something is within them. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from sweeps.planning.spec import ServingOptions, option


@dataclass(frozen=True, kw_only=True)
class ServingLimit:
    """One limit on what may be chosen."""

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
    """The limits that are set."""
    known = (
        ("max_params_m", "M parameters", "params_m"),
        ("max_gmacs", "GMACs", "gmacs"),
        ("max_memory_mb", "MB", "memory_mb"),
        ("max_latency_ms", "ms", "latency_ms"),
        ("min_top1", "val top-1", "top1"),
    )
    return [
        ServingLimit(name=name, limit=limit, unit=unit, cost=cost)
        for name, unit, cost in known
        if (limit := getattr(limits, name)) is not None
    ]


def limits_in_words(limits: ServingOptions) -> str:
    """The limits that are set, as they were asked for."""
    return ", ".join(f"{option(b.name)} {b.limit:g}" for b in limits_set(limits)) or "none"


def three_digits(cost: float) -> str:
    """To three digits, without an exponent: large nets take thousands of MB."""
    return f"{float(f'{cost:.3g}'):g}"
