"""Plot how often the chosen net is right where it is so sure, on val and on test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sweeps.report.style import INK, NORMAL, QUIET, SMALL, STEPS, new_figure, style_axes
from trainables.evaluation.calibration import Reliability, reliability
from trainables.evaluation.confidence import wilson
from trainables.fixres.predictions import Predictions

_COLOUR = "#0072b2"


def plot_reliability(predictions: Sequence[Predictions], temperature: float | None) -> Figure:
    """Draw a panel for each split: the share of right ones over the confidence, by bins.

    Args:
        predictions: with logits.
        temperature: what logits are divided by; the unscaled ones are drawn beside it. None: only
            these are drawn.
    """
    plain = [_of(p, 1.0) for p in predictions]
    scaled = [_of(p, temperature) for p in predictions] if temperature else plain
    low = min(min(b.confidence, wilson(b.hits, b.n)[0]) for r in (*plain, *scaled) for b in r.bins)
    low = max(0.0, 100 * low - 3)
    figure = new_figure(8.5, 4.4, "How often it is right where it is so sure")
    axes = figure.subplots(1, len(plain), squeeze=False, sharex=True, sharey=True)[0]
    for ax, split, before, after in zip(axes, predictions, plain, scaled, strict=True):
        _draw(ax, before, after if temperature else None, low)
        change = f" → {100 * after.ece:.1f}" if temperature else ""
        ax.set_title(
            f"{split.split}, n = {before.n:,}; ECE {100 * before.ece:.1f}{change} points",
            fontsize=NORMAL, loc="left",
        )  # fmt: skip
    axes[0].set_ylabel("share of right ones (%)", fontsize=NORMAL, color=INK)
    axes[-1].legend(fontsize=SMALL, frameon=False, loc="upper left")
    return figure


def _of(predictions: Predictions, temperature: float) -> Reliability:
    assert predictions.logits is not None
    return reliability(predictions.logits, predictions.labels, temperature)


def _draw(ax: Axes, before: Reliability, after: Reliability | None, low: float) -> None:
    style_axes(ax, grid="y")
    ax.plot([low, 100], [low, 100], color=QUIET, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    if after is not None:
        x, y = _points(before)
        ax.plot(
            x, y, "o", color=QUIET, markerfacecolor="white", markersize=4.5, zorder=2,
            label="softmax(logits)",
        )  # fmt: skip
    shown = after or before
    x, y = _points(shown)
    ends = np.array([wilson(b.hits, b.n) for b in shown.bins]).T * 100
    # The ends are of an interval around another centre than the share.
    errors = np.maximum(0, [y - ends[0], ends[1] - y])
    ax.errorbar(
        x, y, yerr=errors, fmt="o", color=_COLOUR, markersize=4.5, linewidth=1, zorder=3,
        label="over the temperature" if after is not None else "softmax(logits)",
    )  # fmt: skip
    ax.set_xlim(low, 100.8)
    ax.set_ylim(low, 101.5)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=STEPS))
    ax.set_xlabel("mean confidence of a bin (%)", fontsize=NORMAL, color=INK)


def _points(found: Reliability) -> tuple[np.ndarray, np.ndarray]:
    confidence = np.array([100 * b.confidence for b in found.bins])
    return confidence, np.array([100 * b.hits / b.n for b in found.bins])
