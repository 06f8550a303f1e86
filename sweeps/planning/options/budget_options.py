"""The options that bound what a sweep spends: a group of those of a sweep."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """Budget (counted over all commands on this OUT; a larger one continues)"""

    budget_hours: float | None = None
    """Most hours by the clock, from the start of a command to its end."""
    budget_gpu_hours: float | None = None
    """Most hours of GPUs that trials use; two trials that share one take half of it each."""
    budget_cost: float | None = None
    """Most money for trials, at --price-per-hour."""
    price_per_hour: tuple[str, ...] = ()
    """Price of an hour of a device, in any currency: 0.5, or by its name: T4=0.5 A10G=1.0."""

    @property
    def is_bounded(self) -> bool:
        """Whether there is a budget at all."""
        limits = (self.budget_hours, self.budget_gpu_hours, self.budget_cost)
        return any(limit is not None for limit in limits)
