"""What a budget left undone, and what it was: told until the sweep goes on with a larger one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeps.events.account import Spent
from sweeps.planning.options.budget_options import BudgetOptions
from sweeps.planning.options.prices import prices_of
from sweeps.planning.options.words import option
from sweeps.planning.units import duration, price
from trainables.storage.typed import checked

NAMED = 4  # points that a sentence names


@dataclass(frozen=True, kw_only=True)
class Budgeted:
    """What a sweep with a budget has spent of it, and what it left undone for want of more."""

    hours: float | None
    gpu_hours: float | None
    cost: float | None
    spent_hours: float
    spent_gpu_hours: float
    spent_cost: float
    trunks: int = 0
    """Trunks of the plan that were not begun, or not trained to a decision."""
    points: tuple[str, ...] = ()
    """Points without a trunk that was trained to its end, in words: they have no rows."""
    cells: int = 0
    """Cells that were not made, of trunks that were trained to their end and of untouched nets."""

    @property
    def is_incomplete(self) -> bool:
        """Whether anything was left undone."""
        return bool(self.trunks or self.points or self.cells)

    def allows_more(self, options: BudgetOptions) -> bool:
        """Whether another budget leaves room for what this one left undone."""
        pairs = [
            (self.hours, options.budget_hours),
            (self.gpu_hours, options.budget_gpu_hours),
            (self.cost, options.budget_cost),
        ]
        before = [math.inf if old is None else old for old, _ in pairs]
        now = [math.inf if new is None else new for _, new in pairs]
        return now != before and all(new >= old for old, new in zip(before, now, strict=True))

    @property
    def spent_in_words(self) -> str:
        """Say what was spent of what."""
        parts = [
            f"{duration(3600 * spent)} of {duration(3600 * limit)} spent ({option(name)})"
            for name, limit, spent in (
                ("budget_hours", self.hours, self.spent_hours),
                ("budget_gpu_hours", self.gpu_hours, self.spent_gpu_hours),
            )
            if limit is not None
        ]
        if self.cost is not None:
            parts.append(
                f"{price(self.spent_cost)} of {price(self.cost)} spent ({option('budget_cost')})"
            )
        return ", ".join(parts)

    @property
    def in_words(self) -> str:
        """Say what was spent of what, and what was left undone."""
        spent = self.spent_in_words
        if not self.is_incomplete:
            return f"{spent}; nothing was left undone"
        undone = []
        if self.trunks:
            undone.append(f"{self.trunks} trunk{'s' if self.trunks > 1 else ''}")
        if self.cells:
            undone.append(f"{self.cells} cell{'s' if self.cells > 1 else ''}")
        without = ""
        if self.points:
            named = ", ".join(self.points[:NAMED])
            more = len(self.points) - NAMED
            without = f" (no row of {named}{f' and {more} more' if more > 0 else ''})"
        return (
            f"{spent}; left undone: {' and '.join(undone) or 'nothing else'}{without}; a larger "
            "budget continues"
        )


def budgeted(options: BudgetOptions, spent: Spent) -> Budgeted | None:
    """Say what was spent of a budget, nothing being left undone; None: there is no budget."""
    if not options.is_bounded:
        return None
    return Budgeted(
        hours=options.budget_hours,
        gpu_hours=options.budget_gpu_hours,
        cost=options.budget_cost,
        spent_hours=spent.elapsed_s / 3600,
        spent_gpu_hours=spent.all_device_s / 3600,
        spent_cost=spent.cost(prices_of(options.price_per_hour)),
    )


def budgeted_from_json(value: Mapping[str, Any] | None) -> Budgeted | None:
    """Read it from its JSON; raises anything for what is none."""
    if value is None:
        return None
    return checked(Budgeted(**{**value, "points": tuple(value["points"])}))
