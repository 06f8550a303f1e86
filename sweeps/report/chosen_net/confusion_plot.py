"""Plot which classes the chosen net takes for which, on val and on test."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sweeps.report.style import INK, NORMAL, QUIET, SMALL, new_figure
from trainables.evaluation.class_metrics import confusions
from trainables.fixres.predictions import Predictions

MAX_CLASSES = 20
MAX_LETTERS = 18
OTHERS = "others"
_COLOURS = matplotlib.colormaps["Blues"]


def plot_confusions(predictions: Sequence[Predictions], classes: Sequence[str]) -> Figure:
    """Draw a matrix for each split: rows are what images are, columns what they are taken for.

    Numbers are images, colours their shares of the class. Of more than 20 classes those of the most
    frequent confusions are shown, and a last column for all others.
    """
    shown = [_shown(p, len(classes)) for p in predictions]
    side = max(map(len, shown))
    cell = 0.36 if side > 6 else 0.5  # inches; names and numbers are outside of the cells
    letters = max(len(_short(classes[i])) for some in shown for i in some)
    width = len(shown) * (cell * (side + 1) + 0.07 * letters + 0.5)
    height = cell * side + 0.07 * letters + 1.25
    figure = new_figure(max(6.0, width), height, "What images are, and what they are taken for")
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for ax, split, some in zip(axes, predictions, shown, strict=True):
        _draw(ax, split, some, classes)
    return figure


def _shown(predictions: Predictions, classes: int) -> list[int]:
    """Choose the classes to show, in their order."""
    if classes <= MAX_CLASSES:
        return list(range(classes))
    chosen: dict[int, None] = {}
    for found in confusions(predictions.labels, predictions.predicted):
        pair = dict.fromkeys((found.label, found.predicted))
        if len(chosen | pair) > MAX_CLASSES:
            break
        chosen |= pair
    # Where nothing is confused, the first.
    return sorted(chosen) if chosen else list(range(MAX_CLASSES))


def _draw(ax: Axes, predictions: Predictions, shown: list[int], classes: Sequence[str]) -> None:
    counts = _counts(predictions, shown)
    rest = counts[:, -1:] if len(shown) < len(classes) else np.empty((len(shown), 0), int)
    counts = np.concatenate([counts[:, :-1], rest], axis=1)
    totals = np.array([(predictions.labels == i).sum() for i in shown])[:, None]
    shares = counts / np.maximum(totals, 1)
    ax.imshow(shares, cmap=_COLOURS, vmin=0, vmax=1, aspect="auto")
    names = [_short(classes[i]) for i in shown]
    ax.set_xticks(range(counts.shape[1]), [*names, *[OTHERS] * rest.shape[1]], rotation=90)
    ax.set_yticks(range(len(shown)), names)
    ax.tick_params(length=0, labelsize=SMALL, labelcolor=INK)
    for spine in ax.spines.values():
        spine.set_color(QUIET)
    for y, x in np.argwhere(counts > 0):
        ax.text(
            x, y, f"{counts[y, x]}", ha="center", va="center", fontsize=SMALL - 1,
            color="white" if shares[y, x] > 0.5 else INK,
        )  # fmt: skip
    ax.set_title(
        f"{predictions.split}, n = {len(predictions.labels):,}", fontsize=NORMAL, loc="left"
    )
    ax.set_ylabel("class", fontsize=NORMAL, color=INK)
    ax.set_xlabel("taken for", fontsize=NORMAL, color=INK)


def _counts(predictions: Predictions, shown: list[int]) -> np.ndarray:
    """Count images of the shown classes (rows) by what they are taken for; the last column: else.

    Returns:
        (shown, shown + 1) int.
    """
    most = max(int(predictions.labels.max()), int(predictions.predicted.max()), *shown)
    place = np.full(most + 1, len(shown))
    place[shown] = np.arange(len(shown))
    inside = np.isin(predictions.labels, shown)
    rows, columns = place[predictions.labels[inside]], place[predictions.predicted[inside]]
    counts = np.zeros((len(shown), len(shown) + 1), dtype=int)
    np.add.at(counts, (rows, columns), 1)
    return counts


def _short(name: str) -> str:
    """Cut a long name, and let no sign of it be taken for a formula."""
    cut = name if len(name) <= MAX_LETTERS else name[: MAX_LETTERS - 1] + "…"
    return cut.replace("$", r"\$")
