"""Plot the trial time that the sweep spent, above what one trial a cell would have taken."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea
from matplotlib.ticker import MaxNLocator

from sweeps.planning.units import duration, price
from sweeps.report.ledger import Ledger
from sweeps.report.style import INK, NORMAL, QUIET, SMALL, STEPS, new_figure, style_axes

# Colours of Okabe and Ito, as in the other figures.
_PARTS = {
    "phase 1, trunks": "#0072b2",
    "phase 2, cells": "#e69f00",
    "the choice trained again": "#cc79a7",
    "sets read after the choice": "#009e73",
}
# Height of a bar; bars are 1 apart.
_HEIGHT = 0.36


def plot_spending(ledger: Ledger) -> Figure:
    """Draw two bars of trial time, each with its parts."""
    untimed = ledger.saved_passes_s is None
    spent = (ledger.trained_s, ledger.adapted_s, ledger.refit_s, ledger.read_s)
    saved = (ledger.saved_trunks_s, ledger.saved_passes_s or 0.0, 0.0, 0.0)
    lines = {
        "this sweep": spent,
        "one trial a cell\n(at least)" if untimed else "one trial a cell\n(estimated)": tuple(
            a + b for a, b in zip(spent, saved, strict=True)
        ),
    }
    without = f"{'at least' if untimed else 'about'} {duration(ledger.alone_s)}"
    title = f"{duration(ledger.spent_s)} of trials, {without} had nothing been shared"
    figure = new_figure(8.5, 2.5, title)
    ax = figure.subplots()
    style_axes(ax, grid="x")
    unit_s, unit = _unit(max(map(sum, lines.values())))
    for line, values in enumerate(lines.values()):
        _bar(ax, line, values, unit_s)
        _total(ax, line, sum(values), unit_s, ledger)
        _parts(ax, line, dict(zip(_PARTS, values, strict=True)))
    ax.set_xlim(0, 1.18 * max(map(sum, lines.values())) / unit_s or 1.0)
    ax.set_ylim(1.72, -0.42)
    ax.set_yticks(range(len(lines)), list(lines))
    ax.tick_params(axis="y", length=0, labelsize=NORMAL)
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(8, steps=STEPS))
    ax.set_xlabel(f"time of trials ({unit})", fontsize=NORMAL, color=INK)
    return figure


def _unit(seconds: float) -> tuple[float, str]:
    """Return the unit that the longest time is written in: its seconds, and its name."""
    unit = duration(seconds).rpartition(" ")[2]
    return {"h": 3600.0, "min": 60.0, "s": 1.0}[unit], unit


def _bar(ax: Axes, line: int, values: tuple[float, ...], unit_s: float) -> None:
    left = 0.0
    for seconds, colour in zip(values, _PARTS.values(), strict=True):
        if not seconds:
            continue
        ax.barh(line, seconds / unit_s, _HEIGHT, left=left, color=colour, linewidth=0)
        left += seconds / unit_s


def _total(ax: Axes, line: int, seconds: float, unit_s: float, ledger: Ledger) -> None:
    money = ledger.money(seconds)
    words = duration(seconds) + ("" if money is None else f"\ncost {price(money)}")
    ax.annotate(
        words, xy=(seconds / unit_s, line), xytext=(5, 0), textcoords="offset points",
        ha="left", va="center", fontsize=NORMAL, weight="bold", color=INK, linespacing=1.15,
    )  # fmt: skip


def _parts(ax: Axes, line: int, parts: Mapping[str, float]) -> None:
    """Name the parts of a bar below it, as a part may be too thin for its name."""
    pieces: list[Artist] = []
    for name, seconds in parts.items():
        if seconds:
            pieces.append(TextArea("■", textprops={"color": _PARTS[name], "fontsize": SMALL}))
            words = f"{name}: {duration(seconds)}   "
            pieces.append(TextArea(words, textprops={"color": QUIET, "fontsize": SMALL}))
    if pieces:
        box = AnnotationBbox(
            HPacker(children=pieces, pad=0, sep=3, align="baseline"),
            (0, line + _HEIGHT / 2),
            xybox=(0, -4),
            boxcoords="offset points",
            box_alignment=(0, 1),
            bboxprops={"edgecolor": "none", "facecolor": "white"},
            pad=0,
        )
        ax.add_artist(box)
