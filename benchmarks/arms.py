"""Compare the arms of a finished sweep, as Markdown.

    python benchmarks/arms.py OUT [--test]

The first table has val top-1 with 95 % intervals (Wilson) for each cell and arm; of arms whose
classifier val picked it is cross-fitted: halves of val pick, and each judges the other's pick. The
second compares each arm, image by image, with the same trunk at the same resolution and crop,
untuned (none): over all cells, how many images it puts right and how many wrong. Nets that were not
fine-tuned, which have one arm, are left out.

With --test both are of the test split, on which nothing was picked: every arm of every cell is
read on it. The store remembers that: whoever then chooses by what they see has no unseen images
left.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sweeps.output.sweep_record import SweepRecord, read_sweep_record
from sweeps.planning.dataset import open_images
from sweeps.selection import leaderboard
from sweeps.selection.leaderboard import Row, crossfit_note
from sweeps.terminal.console import Terminal
from trainables.data.view_cache import ViewCache
from trainables.evaluation.confidence import wilson
from trainables.fixres.arms import UNTUNED, rank
from trainables.fixres.cell import CellSpec, cell_spec_from_json, recorded_hits
from trainables.fixres.held_out_score import held_out_hits, held_out_test, score_held_out
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_record

Hits = Callable[[Row], np.ndarray]
THREADS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="a finished sweep's folder")
    parser.add_argument("--test", action="store_true", help="on test, which is read for every arm")
    args = parser.parse_args()
    out, store = args.out, Store(args.out / "store")
    board = leaderboard.read(out / "leaderboard.parquet")
    rows = [r for r in board if r.split == "val" and not r.untouched]
    hits: Hits = lambda r: recorded_hits(store, r.cell, r.arm)  # noqa: E731
    if args.test:
        record = read_sweep_record(out)
        assert record is not None, "a sweep's folder has its record"
        rows, hits = read_on_test(rows, store, record)
    arms = sorted({r.arm for r in rows}, key=rank)
    print("\n".join([*_accuracies(rows, arms), "", *_gains(rows, arms, hits)]))


def read_on_test(rows: list[Row], store: Store, record: SweepRecord) -> tuple[list[Row], Hits]:
    """Read test for every row: the rows on test, and what each has right."""
    images, _ = open_images(record.spec, Terminal(Console(stderr=True)))
    assert images.digest == record.identity["images"], "these are other images"
    views = ViewCache(images=images, cache=record.spec.cache, threads=THREADS)
    test, read = held_out_test(images), []
    for row in rows:
        cell = _cell(store, row)
        scored = score_held_out(test, store, cell, (row.arm,), views)[row.arm].score
        bare = replace(row, crossfit_top1=None, crossfit_balanced_accuracy=None)
        read.append(replace(bare, split="test", n=scored.n, top1=scored.top1, top5=scored.top5))
    return read, lambda r: held_out_hits(test, store, _cell(store, r), r.arm)


def _cell(store: Store, row: Row) -> CellSpec:
    cell = read_record(store.cell(row.cell) / "spec.json", cell_spec_from_json)
    assert cell is not None, "a finished cell has its spec"
    return cell


def _accuracies(rows: list[Row], arms: list[str]) -> list[str]:
    on = f"{rows[0].split} in % (n = {rows[0].n}{crossfit_note(rows)})"
    lines = [f"Top-1 on {on}, 95 % interval:", ""]
    lines += [f"| train -> test px | {' | '.join(arms)} |", f"|---|{'---|' * len(arms)}"]
    for cell in dict.fromkeys(r.cell for r in rows):
        own = {r.arm: r for r in rows if r.cell == cell}
        lines.append(f"| {own[arms[0]].label} | {' | '.join(_share(own[arm]) for arm in arms)} |")
    return lines


def _share(row: Row) -> str:
    low, high = wilson(row.ranked_hits1, row.n)
    return f"{100 * row.ranked_top1:.1f} ({100 * low:.0f}-{100 * high:.0f})"


def _gains(rows: list[Row], arms: list[str], hits: Hits) -> list[str]:
    cells = dict.fromkeys(r.cell for r in rows)
    lines = [
        f"Against {UNTUNED}, over {len(cells)} cells:",
        "",
        "| arm | mean gain, points | images put right | put wrong | seconds a cell |",
        "|---|---:|---:|---:|---:|",
    ]
    right, wrong = dict.fromkeys(arms, 0), dict.fromkeys(arms, 0)
    for cell in cells:
        hit = {r.arm: hits(r) for r in rows if r.cell == cell}
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
