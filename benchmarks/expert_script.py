"""Run a grid as an expert's script does, by Ray Tune, timm and PyTorch alone; for grid.py.

    python benchmarks/expert_script.py REQUEST.json ANSWER.json

The request names images with their splits, weights, recipe and groups; each group is a variant and
a train resolution, with the cells (test resolution, crop) that its best trunk is adapted to. Trunks
are drawn at random from the ranges (the first of a group is their middle) and cut by Tune's own
ASHAScheduler, one for each group: one for all would let only the largest resolutions go on. The
groups share one run of Tune, so that no core waits, and trials reuse processes.

What a trial does is in expert_trials.py. In the end the best row on val is read on test once. There
is no resumption, tracking or report.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_WAIT_POLICY": "passive",
}
import ray
import torch
from expert_trials import ARMS, Cell, Trunk, build, count_hits, eval_files, save
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

Json = dict[str, Any]


class OneAshaEach(FIFOScheduler):
    """Tune's ASHAScheduler, one for each group of trunks."""

    def __init__(self, groups: int, **settings: Any):
        super().__init__()  # type: ignore[no-untyped-call]
        self._schedulers = [ASHAScheduler(**settings) for _ in range(groups)]

    def _of(self, trial: Any) -> Any:
        return self._schedulers[trial.config["task"]["group"]]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Json) -> str:
        return str(self._of(trial).on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Json) -> None:
        self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_remove(tune_controller, trial)


def run_trials(
    kind: type, tasks: list[Json], request: Json, path: Path, scheduler: Any
) -> list[Json]:
    """Run a trial for each task; returns the last result of each, in their order."""
    cores = request["cores"]
    with tempfile.TemporaryDirectory() as scratch:
        results = tune.Tuner(
            tune.with_resources(kind, {"cpu": cores}),
            param_space={
                "request": str(path), "cores": cores, "task": tune.grid_search(tasks),
            },
            tune_config=tune.TuneConfig(
                scheduler=scheduler, reuse_actors=True,
                max_concurrent_trials=request["concurrency"],
            ),
            run_config=tune.RunConfig(
                storage_path=scratch, verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        ).fit()  # fmt: skip
    if results.errors:
        raise results.errors[0]
    ended = [results[place].metrics for place in range(len(results))]
    return [metrics for metrics in ended if metrics]


def draws(request: Json, folder: Path) -> list[Json]:
    """Draw the trunks of all groups: in rounds, so that each has its first before its second."""
    rng, tasks = random.Random(request["seed"]), []
    for number in range(request["samples"]):
        for place, group in enumerate(request["groups"]):
            task = {**group, "group": place, "seed": rng.randrange(2**31)}
            for name, (low, high, log) in request["ranges"].items():
                ends = (math.log(low), math.log(high)) if log else (low, high)
                drawn = sum(ends) / 2 if number == 0 else rng.uniform(*ends)
                task[name] = math.exp(drawn) if log else drawn
            tasks.append({**task, "weights": str(folder / f"trunk-{place}-{number}.safetensors")})
    return tasks


def main(request_path: Path, answer: Path) -> None:
    request, folder = json.loads(request_path.read_text()), answer.parent
    recipe, groups = request["recipe"], request["groups"]
    ray.init(
        address="local", num_cpus=request["concurrency"] * request["cores"],
        include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
    )  # fmt: skip
    asha = OneAshaEach(
        len(groups), time_attr="epoch", metric="val", mode="max", max_t=recipe["epochs"],
        grace_period=min(request["grace_epochs"], recipe["epochs"]),
        reduction_factor=request["reduction"],
    )  # fmt: skip
    trunks = run_trials(Trunk, draws(request, folder), request, request_path, asha)
    cells = []
    for place, group in enumerate(groups):
        ended = [t for t in trunks if t["group"] == place and "weights" in t]
        best = max(ended, key=lambda trunk: trunk["val"])
        for number, (res, crop) in enumerate(group["cells"]):
            about = {"variant": group["variant"], "train_res": group["train_res"], "seed": number}
            kept = str(folder / f"cell-{place}-{number}.safetensors")
            cells.append(
                {**about, "test_res": res, "crop": crop, "trunk": best["weights"], "weights": kept}
            )
    adapted = run_trials(Cell, cells, request, request_path, None)
    ray.shutdown()
    rows = [row for cell in adapted for row in cell["rows"]]
    best = max(rows, key=lambda row: row["val_hits"])
    before_reading = time.time()
    torch.set_num_threads(request["concurrency"] * request["cores"])
    net = build(request, best["variant"], best["weights"])
    test = eval_files(request, best["variant"], "test", best["test_res"], best["crop"])
    best["test_hits"] = count_hits(net, test, request)
    before_export = time.time()
    save(net.state_dict(), folder / "model.safetensors")
    found = {
        "first_trial_at": min(trunk["began"] for trunk in trunks),
        "trunks": len(trunks),
        "trunk_epochs": sum(trunk["epoch"] for trunk in trunks),
        "trunks_s": sum(trunk["seconds"] for trunk in trunks),
        "cells": len(adapted),
        "cells_s": sum(cell["seconds"] for cell in adapted),
        "reading_s": before_export - before_reading,
        "export_s": time.time() - before_export,
        "hits": {arm: [row["val_hits"] for row in rows if row["arm"] == arm] for arm in ARMS},
        "best": best,
    }
    answer.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
