"""Compare the arms of a finished sweep, as Markdown.

    python benchmarks/arms.py OUT

The first table has val top-1 with 95 % intervals (Wilson) for each cell and arm. The second
compares each arm, image by image, with the same trunk at the same resolution and crop, untuned
(none): over all cells, how many images it puts right and how many wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sweeps.selection import leaderboard
from sweeps.selection.leaderboard import Row
from trainables.evaluation.confidence import wilson
from trainables.fixres.arms import UNTUNED, rank
from trainables.fixres.cell import recorded_hits
from trainables.storage.artifact_store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="a finished sweep's folder")
    out = parser.parse_args().out
    rows = [r for r in leaderboard.read(out / "leaderboard.parquet") if r.split == "val"]
    arms = sorted({r.arm for r in rows}, key=rank)
    print("\n".join([*_accuracies(rows, arms), "", *_gains(rows, arms, Store(out / "store"))]))


def _accuracies(rows: list[Row], arms: list[str]) -> list[str]:
    lines = [f"Top-1 on val in % (n = {rows[0].n}), 95 % interval:", ""]
    lines += [f"| train -> test px | {' | '.join(arms)} |", f"|---|{'---|' * len(arms)}"]
    for cell in dict.fromkeys(r.cell for r in rows):
        own = {r.arm: r for r in rows if r.cell == cell}
        lines.append(f"| {own[arms[0]].label} | {' | '.join(_share(own[arm]) for arm in arms)} |")
    return lines


def _share(row: Row) -> str:
    low, high = wilson(row.hits1, row.n)
    return f"{100 * row.top1:.1f} ({100 * low:.0f}-{100 * high:.0f})"


def _gains(rows: list[Row], arms: list[str], store: Store) -> list[str]:
    cells = dict.fromkeys(r.cell for r in rows)
    lines = [
        f"Against {UNTUNED}, over {len(cells)} cells:",
        "",
        "| arm | mean gain, points | images put right | put wrong | seconds a cell |",
        "|---|---:|---:|---:|---:|",
    ]
    right, wrong = dict.fromkeys(arms, 0), dict.fromkeys(arms, 0)
    for cell in cells:
        hit = {arm: recorded_hits(store, cell, arm) for arm in arms}
        for arm in arms:
            right[arm] += int((hit[arm] & ~hit[UNTUNED]).sum())
            wrong[arm] += int((~hit[arm] & hit[UNTUNED]).sum())
    for arm in arms:
        seconds = [r.seconds for r in rows if r.arm == arm]
        gain = 100 * (right[arm] - wrong[arm]) / (len(cells) * rows[0].n)
        lines.append(
            f"| {arm} | {gain:+.1f} | {right[arm]} | {wrong[arm]} "
            f"| {sum(seconds) / len(seconds):.1f} |"
        )
    return lines


if __name__ == "__main__":
    main()
