"""Which row serves best: the best val top-1, or a cheaper one that is as good. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweeps.leaderboard import Row
from sweeps.spec import ServingOptions
from trainables.arms import ARMS, rank
from trainables.errors import UserError
from trainables.intervals import standard_error


@dataclass(frozen=True, kw_only=True)
class Choice:
    row: Row
    reason: str


def choose(rows: Sequence[Row], limits: ServingOptions) -> Choice:
    """The cheapest (by GMACs, then parameters) of the val rows within one standard error of the
    best within the limits, among the arms whose result is a net that timm builds.

    Raises:
        UserError: no row is within the limits.
    """
    val = [r for r in rows if r.split == "val" and ARMS[r.arm].plain]
    allowed = [r for r in val if limits.allow(r.params_m, r.gmacs)]
    if not allowed:
        raise UserError(
            f"None of the {len(val)} rows is within {_in_words(limits)}: raise the limits or "
            "sweep smaller variants and resolutions."
        )
    best = min(allowed, key=lambda r: (-r.hits1, r.gmacs, r.params_m, -r.top5, rank(r.arm)))
    error = standard_error(best.hits1, best.n)
    as_good = [r for r in allowed if r.top1 >= best.top1 - error]
    chosen = min(as_good, key=lambda r: (r.gmacs, r.params_m, -r.hits1, -r.top5, rank(r.arm)))
    return Choice(row=chosen, reason=_reason(chosen, best, error, len(allowed), limits))


def _in_words(limits: ServingOptions) -> str:
    words = []
    if limits.max_params_m is not None:
        words.append(f"{limits.max_params_m:g} M parameters")
    if limits.max_gmacs is not None:
        words.append(f"{limits.max_gmacs:g} GMACs")
    return " and ".join(words)


def _reason(chosen: Row, best: Row, error: float, count: int, limits: ServingOptions) -> str:
    among = f"of {count} rows" + (f" within {_in_words(limits)}" if _in_words(limits) else "")
    if chosen == best:
        return (
            f"{_named(chosen)} is the best val top-1 {among}; none cheaper is within one standard "
            f"error ({100 * error:.1f} points)."
        )
    return (
        f"{_named(chosen)} is within one standard error ({100 * error:.1f} points) of the best val "
        f"top-1 {among}, {_named(best)}, at {chosen.gmacs:.3g} instead of {best.gmacs:.3g} GMACs."
    )


def _named(row: Row) -> str:
    return f"{row.place} px, arm {row.arm} ({100 * row.top1:.1f} %, n={row.n})"
