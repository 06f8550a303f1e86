"""Choose the row that serves best: the best on val, or a cheaper one that is as good. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sweeps.planning.options.groups import ServingOptions
from sweeps.planning.options.words import option
from sweeps.planning.serving.costs import SERVING_COSTS
from sweeps.planning.serving.limits import ServingLimit, limits_set
from sweeps.planning.units import three_digits
from sweeps.selection.leaderboard import Row, crossfit_note
from sweeps.selection.optimism import Expectation, expectation
from sweeps.selection.repeats import HitsJudge, RepeatsJudge, groups_of
from sweeps.selection.resampling import Resampler
from trainables.errors import UserError
from trainables.evaluation.class_metrics import IN_WORDS, Metric
from trainables.fixres.arms import ARMS, rank
from trainables.profiling.latency import Conditions

# Returns (n,) bool: which images of val count for a row's rank.
Hits = Callable[[Row], np.ndarray]
# Returns (n,) each: the labels of val, and the classes that count for a row's rank.
Said = Callable[[Row], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The row that was chosen, and why."""

    row: Row
    reason: str
    """One sentence."""
    optimism: float
    """By how much the value on val of the row's kept classifier is expected to be too high, as a
    share: val picked the classifier, the row, and the trunks that rows are of."""
    metric: Metric = "top1"
    """By which the row is the best."""
    expected: Expectation | None = None
    """The top-1 that the row is worth on new images; None: val decided by another metric, or a
    former version has chosen."""


def eligible(rows: Sequence[Row]) -> list[Row]:
    """List the val rows whose arm leaves a net that timm builds."""
    return [r for r in rows if r.split == "val" and ARMS[r.arm].plain]


def choose(
    rows: Sequence[Row],
    limits: ServingOptions,
    hits: Hits,
    metric: Metric = "top1",
    said: Said | None = None,
    cut: np.ndarray | None = None,
    latency: Conditions | None = None,
) -> Choice:
    """Choose the cheapest of the eligible rows that are within the limits and as good as the best.

    A row is as good if its value on val is within one standard error of the best: that of the
    paired difference, image by image; of means over classes by a bootstrap. GMACs decide what is
    cheapest, then parameters. Where val picked a row's classifier, its cross-fitted values compare
    with those of rows in which it did not. Rows that repeat each other compare by their mean, and
    of those that win the best on val is chosen.

    Args:
        said: needed for a metric other than top-1.
        cut: (trunks, n), what trunks that val cut might have come to (:mod:`.cut_trunks`): they are
            not chosen, but val chose among them too.
        latency: what the latencies of the rows were measured with, for the reason.

    Raises:
        UserError: no row is within the limits; says what each rules out, and the nearest miss.
    """
    rows, set_limits = eligible(rows), limits_set(limits, latency)
    assert rows, "a sweep has eligible rows"
    allowed = [r for r in rows if all(bound.admits(r) for bound in set_limits)]
    if not allowed:
        raise UserError(_explain_none(rows, set_limits, metric))
    own: HitsJudge | Resampler
    if metric == "top1":
        right = np.empty((len(allowed), allowed[0].n), np.bool_)
        for place, row in enumerate(allowed):
            right[place] = hits(row)
        own = HitsJudge(right, cut)
    else:
        assert said is not None, "a mean over classes is of predicted classes"
        labels = said(allowed[0])[0]
        predicted = [_as_small_numbers(said(r)[1]) for r in allowed]
        own = Resampler(metric=metric, labels=labels, predicted=predicted)
    judge = RepeatsJudge(rows=allowed, judge=own, groups=groups_of(allowed))
    picked = [allowed[judge.best_of(group)] for group in range(len(judge.groups))]
    value = dict(zip(picked, judge.values, strict=True))
    best = min(picked, key=lambda r: (-value[r], r.gmacs, r.params_m, -r.top5, rank(r.arm)))
    differences, errors = judge.differences(picked.index(best))
    behind = dict(zip(picked, zip(differences, errors, strict=True), strict=True))
    as_good = [r for r, (difference, error) in behind.items() if difference <= error]
    chosen = min(as_good, key=lambda r: (r.gmacs, r.params_m, -value[r], -r.top5, rank(r.arm)))
    error, flattery = float(behind[chosen][1]), judge.optimism()
    own_value = float(judge.own[allowed.index(chosen)])
    return Choice(
        row=chosen,
        reason=_reason(chosen, best, error, len(picked), set_limits, metric),
        optimism=chosen.kept_value(metric) - own_value + flattery,
        metric=metric,
        expected=expectation(own_value, flattery, chosen.n) if metric == "top1" else None,
    )


def _as_small_numbers(classes: np.ndarray) -> np.ndarray:
    """Copy classes (n,) into as few bytes as they need.

    What a file gave keeps all columns of the file in memory.
    """
    return classes.astype(np.min_scalar_type(int(classes.max())))


def known_costs(rows: Sequence[Row]) -> list[str]:
    """List the costs that all of the rows have, as fields of a row.

    Latency may not have been measured.
    """
    fields = (cost.field for cost in SERVING_COSTS)
    return [field for field in fields if all(getattr(row, field) is not None for row in rows)]


def pareto_front(rows: Sequence[Row], cost: str, metric: Metric = "top1") -> list[Row]:
    """Find the Pareto front of the eligible rows.

    No other row is cheaper and as good as one of the front, or better and as cheap.

    Args:
        cost: field of a row; the rows all have it.
        metric: by which a row is better.

    Returns:
        The front, cheapest first; of equal rows the one of the cheapest arm.
    """
    ordered = sorted(
        eligible(rows),
        key=lambda r: (
            *(getattr(r, cost), -r.value(metric), -r.own_value(metric)),
            *(-r.top5, rank(r.arm), r.gmacs),
        ),
    )
    front: list[Row] = []
    for row in ordered:
        if not front or row.value(metric) > front[-1].value(metric):
            front.append(row)
    return front


def _explain_none(rows: Sequence[Row], set_limits: Sequence[ServingLimit], metric: Metric) -> str:
    """Say what each limit rules out, and which row misses the limits by least."""
    parts = []
    for bound in set_limits:
        values = [bound.value(r) for r in rows]
        ruled_out = sum(not bound.admits(r) for r in rows)
        if ruled_out:
            extreme = (
                f"most is {three_digits(max(values))}"
                if bound.at_least
                else f"least {three_digits(min(values))}"
            )
            parts.append(
                f"{option(bound.name)} {bound.limit:g} rules out {ruled_out} (the {extreme})"
            )
    nearest = min(rows, key=lambda r: max(bound.excess(r) for bound in set_limits))
    worst = max(set_limits, key=lambda bound: bound.excess(nearest))
    return (
        f"None of the {len(rows)} rows is within {_in_words(set_limits)}: {'; '.join(parts)}; the "
        f"nearest miss is {_named(nearest, metric)} with {three_digits(worst.value(nearest))} "
        f"{worst.unit}."
    )


def _in_words(set_limits: Sequence[ServingLimit]) -> str:
    return " and ".join(map(str, set_limits))


def _reason(
    chosen: Row,
    best: Row,
    error: float,
    count: int,
    set_limits: Sequence[ServingLimit],
    metric: Metric,
) -> str:
    words = IN_WORDS[metric]
    among = f"of {count} rows" + (f" within {_in_words(set_limits)}" if set_limits else "")
    if chosen == best:
        reason = (
            f"{_named(chosen, metric)} is the best val {words} {among}; none cheaper is within "
            "one standard error of the paired difference"
        )
    else:
        reason = (
            f"{_named(chosen, metric)} is within one standard error of the paired difference "
            f"({100 * error:.1f} points) of the best val {words} {among}, {_named(best, metric)}, "
            f"at {chosen.gmacs:.3g} instead of {best.gmacs:.3g} GMACs"
        )
    return f"{reason}{_picked_repeat(chosen, metric)}."


def _picked_repeat(chosen: Row, metric: Metric) -> str:
    """Say which of its repeats a row is; nothing where there are none."""
    if chosen.repeats == 1:
        return ""
    return (
        f"; of its {chosen.repeats} trainings with different seeds, number {chosen.repeat + 1}, "
        f"the best on val, is handed over ({100 * chosen.own_value(metric):.1f} %)"
    )


def _named(row: Row, metric: Metric) -> str:
    share = f"{100 * row.value(metric):.1f} %{crossfit_note([row])}"
    if row.repeats > 1:
        share += f", standard deviation {100 * row.spread(metric):.1f}"
    return f"{row.label}, arm {row.arm} ({share}, n={row.n})"
