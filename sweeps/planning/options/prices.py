"""Prices of devices by the hour, as the options give them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainables.errors import UserError


@dataclass(frozen=True)
class Prices:
    """What an hour of a device costs, by a part of its name; "" is any other."""

    by_name: Mapping[str, float]

    def of(self, device: str) -> float | None:
        """Find the price of a device by its name; None: none was given.

        Of several names that are part of it the longest counts.
        """
        known = [name for name in self.by_name if name and name.lower() in device.lower()]
        return self.by_name.get(max(known, key=len, default=""))

    @property
    def highest(self) -> float | None:
        """The highest price that was given: a device that is not known yet may be as dear."""
        return max(self.by_name.values(), default=None)


def prices_of(given: Sequence[str]) -> Prices:
    """Read prices from their options.

    Raises:
        UserError: one is no price, or a device has two.
    """
    by_name: dict[str, float] = {}
    for word in given:
        name, _, number = word.rpartition("=")
        try:
            price = float(number)
        except ValueError:
            price = -1.0
        if not 0 <= price < float("inf") or (not name and "=" in word):
            raise UserError(
                f"--price-per-hour {word} is no price: give an amount of at least 0, or "
                "NAME=AMOUNT."
            )
        if name in by_name:
            raise UserError(
                f"--price-per-hour {word}: {name or 'any device'} has a price already: give one."
            )
        by_name[name] = price
    return Prices(by_name)
