"""Time a whole grid: our command, and scripts as an expert writes them with Ray Tune alone.

    python benchmarks/grid.py --data FOLDER

FOLDER is a folder of class folders. Three ways take the same images in the same splits, weights,
variants, train and test resolutions, crops, trunks of a group, epochs, rungs and trials at a time.
Each is a command of its own, one after the other, with nothing kept from before, on CPUs alone:

- ours: ``sweeps/fixres_grid.py``;
- trunks shared: ``benchmarks/expert_script.py``, whose trunks are trained once for each train
  resolution, and the best of each adapted to all test resolutions and crops;
- one trial a cell: the same script, where each (train resolution, test resolution, crop) trains and
  cuts trunks of its own, as who gives Tune the whole grid does.

The expert's recipe is ours: optimiser, schedule, augmentation, batches, and the ranges of
hyperparameters, of which a group's first trunk has the middle. What differs:

- the search: at random, where ours proposes by TPE; Tune's ASHA stops trunks, ours has them wait
  and promotes them;
- the fix: 2 learning rates for 5 epochs, each a pass of the whole net (10 passes over train and 11
  over val a cell), and the last batch norm's scale and shift are trained too; ours tries its
  default settings for up to 30 epochs on kept features, and leaves scale and shift alone. The
  script has no arm bn;
- images: decoded in each epoch; ours decodes them once, within its start;
- the choice: the best row on val; ours takes the cheapest that val cannot tell from the best, and
  its value on val is cross-fitted where it decides;
- what there is in the end: a state dict; ours has runs in MLflow, a report, a model card, ONNX and
  PyTorch's exported program, measured latency and predictions of all rows, and can be resumed at
  any time. All that is in its seconds.

Each winner is read on test once, after its choice. "Start" is up to the first trial's beginning;
"trials" from there to what comes after them, the end of Ray included. Seconds of trunks and cells
are added up over trials that run side by side. CPU seconds are of all processes of the command,
looked at five times a second: what a process does within its last fifth is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from threading import Event, Thread
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": sys.path[0]}
import psutil
import pyarrow.parquet as pq

from sweeps.output.sweep_record import read_sweep_record
from sweeps.planning.grid import native_crop, resolve_grid
from sweeps.planning.options.ranges import LOG_OPTIONS
from sweeps.planning.savings.rungs import default_grace_epochs, rungs_to
from sweeps.planning.search import NAMES_OF_HYPER, with_learning_rates
from sweeps.planning.spec import SweepSpec
from trainables.data.decode import prepare
from trainables.data.image_set import ImageSet
from trainables.evaluation.confidence import wilson
from trainables.machine import available_cores
from trainables.models import variants
from trainables.models.weights import find_weights
from trainables.profiling.speed_file import read_all_timings
from trainables.sources.splits import SPLITS
from trainables.storage.artifact_store import Store
from trainables.training.trunk import recorded_reports, trained_epochs

ROOT = Path(__file__).resolve().parents[1]
Json = dict[str, Any]
ARMS = ("none", "fix")  # that all three have
LOOK_EVERY_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a command took."""

    began: float  # Unix time, s
    wall_s: float
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a command took for its parts, and what came of it."""

    spent: Spent
    start_s: float
    trunks: int
    trunk_epochs: int
    trunks_s: float
    cells: int
    cells_s: float
    mean_top1: dict[str, float]
    """On val, the mean over the cells, by arm."""
    reading_s: float
    evidence_s: float
    winner: str
    val_top1: float
    n_val: int
    test_hits: int
    n_test: int

    @property
    def trials_s(self) -> float:
        """Seconds by the clock that nothing else has."""
        return self.spent.wall_s - self.start_s - self.reading_s - self.evidence_s


class CpuMeter(Thread):
    """Adds up the CPU time of a process and all below it, those that have ended included."""

    def __init__(self, root: int):
        super().__init__(daemon=True)
        self._root, self._ended = psutil.Process(root), Event()
        self._seconds: dict[psutil.Process, float] = {}
        self.start()

    def run(self) -> None:
        """Look at all processes, again and again."""
        while not self._ended.wait(LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        try:
            found = [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            found = []
        # One whose parent has ended is below the root no longer.
        for process in dict.fromkeys([*self._seconds, *found]):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            self._seconds[process] = times.user + times.system

    def end(self) -> float:
        """Stop looking; returns the seconds."""
        self._ended.set()
        self.join()
        return sum(self._seconds.values())


def run(command: list[str], log: Path) -> Spent:
    """Run a command, whose output goes to a file; ends with its last lines where it fails."""
    began, start = time.time(), time.perf_counter()
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, stdout=output, stderr=output
        )
        meter = CpuMeter(process.pid)
        code = process.wait()
    spent = Spent(began=began, wall_s=time.perf_counter() - start, cpu_s=meter.end())
    if code != 0:
        sys.exit("\n".join([*log.read_text().splitlines()[-20:], f"{command[0]} failed: {code}"]))
    print(f"{command[0]} took {spent.wall_s:.0f} s", file=sys.stderr)
    return spent


def ours(options: list[str], out: Path, cache: Path, log: Path) -> Result:
    """Run our command; its parts are from its own record."""
    spent = run(["sweeps/fixres_grid.py", *options], log)
    store, choice = Store(out / "store"), json.loads((out / "choice.json").read_text())
    trunks = [recorded_reports(store, folder.name) for folder in store.trunks.iterdir()]
    rows = pq.read_table(out / "leaderboard.parquet").to_pylist()
    rows = [row for row in rows if row["split"] == "val"]
    readings = [json.loads(path.read_text()) for path in store.readings_folder.glob("*.json")]
    timed = read_all_timings(cache)[0]
    assert timed.boot_s is not None and timed.close_s is not None, "this command began and ended"
    row = choice["chosen"]
    test = next(r for r in choice["unseen"] if r["split"] == "test" and r["arm"] == row["arm"])
    return Result(
        spent=spent,
        start_s=timed.boot_s,
        trunks=len(trunks),
        trunk_epochs=sum(map(trained_epochs, trunks)),
        trunks_s=sum(report.seconds for reports in trunks for report in reports),
        cells=len({row["cell"] for row in rows}),
        cells_s=sum(row["seconds"] for row in rows),
        mean_top1={arm: fmean(r["top1"] for r in rows if r["arm"] == arm) for arm in ARMS},
        reading_s=sum(r["seconds"] for r in readings if r["score"]["split"] == "test"),
        evidence_s=timed.close_s,
        winner=_winner(row, row["crop_pct"]),
        val_top1=row["top1"],
        n_val=row["n"],
        test_hits=round(test["top1"] * test["n"]),
        n_test=test["n"],
    )


def experts(request: Json, folder: Path) -> Result:
    """Run the expert's script; its parts are from its answer."""
    folder.mkdir()
    asked, answer = folder / "request.json", folder / "answer.json"
    asked.write_text(json.dumps(request))
    spent = run(["benchmarks/expert_script.py", str(asked), str(answer)], folder / "log")
    found = json.loads(answer.read_text())
    row, counts = found["best"], {name: len(items) for name, items in request["splits"].items()}
    return Result(
        spent=spent,
        start_s=found["first_trial_at"] - spent.began,
        evidence_s=found["export_s"],
        mean_top1={arm: fmean(hits) / counts["val"] for arm, hits in found["hits"].items()},
        winner=_winner(row, row["crop"]),
        val_top1=row["val_hits"] / counts["val"],
        n_val=counts["val"],
        test_hits=row["test_hits"],
        n_test=counts["test"],
        **{
            name: found[name]
            for name in ("trunks", "trunk_epochs", "trunks_s", "cells", "cells_s", "reading_s")
        },
    )


def _winner(row: Json, crop: float) -> str:
    at = f"{row['train_res']} -> {row['test_res']} px, crop {crop:g}"
    return f"{row['variant']} {at}, {row['arm']}"


def request_of(spec: SweepSpec, images: ImageSet, data: Path, store: Store) -> Json:
    """Say to the expert's script what our command is given, without its groups."""
    train = len(images.split("train").labels)
    options = with_learning_rates(spec, train).trunks
    space = {name: (*getattr(options, name), name in LOG_OPTIONS) for name in NAMES_OF_HYPER}
    recipe = ("epochs", "batch_size", "warmup_epochs", "crop_scale", "hflip")
    concurrency = spec.resources.concurrency
    grace_epochs = spec.halving.grace_epochs
    if grace_epochs is None:
        grace_epochs = default_grace_epochs(train, spec.trunks.batch_size)
    assert concurrency is not None
    return {
        "splits": {name: _files(images, name, data) for name in SPLITS},
        "classes": images.classes,
        "variants": {name: _about(name, store) for name in spec.grid.variants},
        "recipe": {name: getattr(spec.trunks, name) for name in recipe},
        "ranges": space,
        "rungs": rungs_to(spec.trunks.epochs, grace_epochs, spec.halving.reduction),
        "grace_epochs": grace_epochs,
        "reduction": spec.halving.reduction,
        "samples": spec.search.samples,
        "seed": spec.run.seed,
        "concurrency": concurrency,
        "cores": max(1, available_cores() // concurrency),
    }


def _files(images: ImageSet, split: str, data: Path) -> list[tuple[str, int]]:
    one = images.split(split)
    return list(zip([str(data / path) for path in one.paths()], one.labels.tolist(), strict=True))


def _about(name: str, store: Store) -> Json:
    """Describe a variant in timm's words, with a file of its weights."""
    variant = variants.get(name)
    weights = find_weights(variant, "auto", store)
    assert weights.name is not None
    return vars(variants.preprocessing(variant)) | {
        "timm_name": variant.timm_name,
        "dropout": variant.dropout,
        "weights": str(store.weights(weights.name)),
    }


def groups_of(spec: SweepSpec, images: ImageSet, *, alone: bool) -> list[Json]:
    """List the groups of trunks, with their cells, and where val is scored at their rungs.

    Args:
        alone: a group has one cell; else it has all of its variant and train resolution.
    """
    grid, groups = resolve_grid(spec, images.split("train").sizes), []
    for point in grid.tests:
        about = {"variant": point.variant, "train_res": point.train_res}
        cells = grid.cells(point)
        if alone:
            groups += [{**about, "cells": [cell], "val_at": [cell]} for cell in cells]
        else:
            native = native_crop(point.variant)
            val_at = [(res, native) for res in grid.tests[point]]
            groups.append({**about, "cells": cells, "val_at": val_at})
    return groups


def show(results: dict[str, Result]) -> None:
    """Print the table."""
    found = list(results.values())

    def line(name: str, cells: list[str]) -> None:
        print(f"| {name} | {' | '.join(cells)} |")

    line("", list(results))
    print("|---|" + "---:|" * len(found))
    seconds = {
        "start, s": [r.start_s for r in found],
        "trials by the clock, s": [r.trials_s for r in found],
        "reading of test, s": [r.reading_s for r in found],
        "evidence and export, s": [r.evidence_s for r in found],
        "wall, s": [r.spent.wall_s for r in found],
        "CPU, s": [r.spent.cpu_s for r in found],
        "trunks, added up, s": [r.trunks_s for r in found],
        "cells, added up, s": [r.cells_s for r in found],
    }
    for name, values in seconds.items():
        line(name, [f"{value:.1f}" for value in values])
    first = found[0].spent
    line("wall, times ours", [f"{r.spent.wall_s / first.wall_s:.2f}" for r in found])
    line("CPU, times ours", [f"{r.spent.cpu_s / first.cpu_s:.2f}" for r in found])
    line("trunks (epochs of all)", [f"{r.trunks} ({r.trunk_epochs})" for r in found])
    line("cells", [f"{r.cells}" for r in found])
    for arm in ARMS:
        line(f"{arm}, mean top-1 on val, %", [f"{100 * r.mean_top1[arm]:.1f}" for r in found])
    line("winner on val", [r.winner for r in found])
    line("its top-1 on val, %", [f"{100 * r.val_top1:.1f} (n={r.n_val})" for r in found])
    line("on test, % (95 % interval)", [_test_in_words(r) for r in found])


def _test_in_words(result: Result) -> str:
    low, high = wilson(result.test_hits, result.n_test)
    share = 100 * result.test_hits / result.n_test
    return f"{share:.1f} ({100 * low:.1f} to {100 * high:.1f}, n={result.n_test})"


def options_of(args: argparse.Namespace, out: Path, cache: Path) -> list[str]:
    """Write the options of our command."""
    words = []
    for name in ("variants", "train_res", "test_res", "test_crop_pct", "arms"):
        words += [f"--{name.replace('_', '-')}", *map(str, getattr(args, name))]
    for name in ("data", "epochs", "samples", "concurrency", "seed"):
        words += [f"--{name}", str(getattr(args, name))]
    return [*words, "--no-untouched", "--cache-dir", str(cache), "--out", str(out)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder of class folders")
    parser.add_argument("--variants", nargs="+", default=["lite0"])
    parser.add_argument("--train-res", nargs="+", type=int, default=[32, 48], help="px")
    parser.add_argument("--test-res", nargs="+", type=int, default=[32, 48, 64], help="px")
    parser.add_argument("--test-crop-pct", nargs="+", type=float, default=[0.875, 1.0])
    parser.add_argument(
        "--arms", nargs="+", default=["none", "bn", "fix"], help="of ours, none and fix among them"
    )
    parser.add_argument("--epochs", type=int, default=4, help="of a trunk")
    parser.add_argument("--samples", type=int, default=3, help="trunks of a group")
    parser.add_argument("--concurrency", type=int, default=available_cores(), help="of trials")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if missing := set(ARMS) - set(args.arms):
        parser.error(f"--arms lacks {' '.join(sorted(missing))}, which the scripts have: add it")
    args.data = args.data.resolve()
    with tempfile.TemporaryDirectory(prefix="grid-") as scratch:
        folder = Path(scratch)
        out, cache = folder / "out", folder / "cache"
        results = {"ours": ours(options_of(args, out, cache), out, cache, folder / "log")}
        record = read_sweep_record(out)
        assert record is not None, "ours has ended"
        images = prepare(args.data, cache, record.spec.read)
        assert images.digest == record.identity["images"], "all have the same splits"
        request = request_of(record.spec, images, args.data, Store(out / "store"))
        for name, alone in (("expert, trunks shared", False), ("expert, one trial a cell", True)):
            asked = request | {"groups": groups_of(record.spec, images, alone=alone)}
            results[name] = experts(asked, folder / ("alone" if alone else "shared"))
    counts = ", ".join(f"{len(items):,} {name}" for name, items in request["splits"].items())
    print(f"{counts} images; {args.concurrency} trials at a time on {available_cores()} cores\n")
    show(results)


if __name__ == "__main__":
    main()
