"""Write quantities for people: durations, money and costs, to the digits that matter."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Write seconds, minutes or hours with two or three digits: "3.8 s", "17 min", "2.1 h"."""
    for unit, unit_seconds in (("h", 3600), ("min", 60)):
        if seconds >= 2 * unit_seconds:
            return f"{_short(seconds / unit_seconds)} {unit}"
    return f"{_short(seconds)} s"


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def price(amount: float) -> str:
    """Write an amount of money to the hundredth, without its currency."""
    return "< 0.01" if 0 < amount < 0.01 else f"{amount:,.2f}"


def three_digits(value: float) -> str:
    """Write three significant digits without an exponent: large nets take thousands of MB."""
    return f"{float(f'{value:.3g}'):g}"
