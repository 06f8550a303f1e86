"""Show what the axis of test crops and the untouched nets bring to a sweep, as Markdown.

    python benchmarks/axes.py OUT

OUT is a finished sweep with both. Its rows on val are split as if the sweep had tried one crop
alone, or left the untouched nets out; of each part the product's own choice is made, and its Pareto
front is listed. Only then is test read, for the chosen rows: the store remembers that. The seconds
are those of the cells of each part, all arms.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.arms import read_on_test
from sweeps.output.sweep_record import read_sweep_record
from sweeps.planning.options.groups import ServingOptions
from sweeps.selection import leaderboard
from sweeps.selection.choice import choose, pareto_front
from sweeps.selection.leaderboard import Row
from trainables.evaluation.confidence import wilson
from trainables.fixres.cell import recorded_hits
from trainables.storage.artifact_store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="a finished sweep's folder")
    out = parser.parse_args().out
    store, record = Store(out / "store"), read_sweep_record(out)
    assert record is not None, "a sweep's folder has its record"
    val = [r for r in leaderboard.read(out / "leaderboard.parquet") if r.split == "val"]
    parts = list(_parts(val))
    chosen = [
        choose(rows, ServingOptions(), lambda r: recorded_hits(store, r.cell, r.arm)).row
        for _, rows in parts
    ]
    once = list(dict.fromkeys(chosen))
    on_test = dict(zip(once, read_on_test(once, store, record)[0], strict=True))
    print(f"| tried | rows | s | chosen | val top-1 % | test top-1 % (n = {on_test[once[0]].n}) |")
    print("|---|---:|---:|---|---:|---:|")
    for (name, rows), row in zip(parts, chosen, strict=True):
        low, high = wilson(on_test[row].hits1, on_test[row].n)
        test = f"{100 * on_test[row].top1:.1f} ({100 * low:.1f} to {100 * high:.1f})"
        seconds = sum(r.seconds for r in rows)
        print(
            f"| {name} | {len(rows)} | {seconds:.0f} | {row.label}, {row.arm} "
            f"| {100 * row.ranked_top1:.1f} | {test} |"
        )
    print()
    for name, rows in parts:
        front = (
            f"{r.label} {r.arm} {100 * r.ranked_top1:.1f} % at {r.gmacs:.3g}"
            for r in pareto_front(rows, "gmacs")
        )
        print(f"- {name}, Pareto front (val top-1, GMACs): {'; '.join(front)}.")


def _parts(rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Split the rows by what a sweep might have tried, and name each part."""
    crops = sorted({r.crop_pct for r in rows})
    for untouched in (False, True):
        also = ", and untouched" if untouched else ""
        kept = [r for r in rows if untouched or not r.untouched]
        for crop in crops:
            yield f"crop {crop}{also}", [r for r in kept if r.crop_pct == crop]
        yield f"all {len(crops)} crops{also}", kept


if __name__ == "__main__":
    main()
