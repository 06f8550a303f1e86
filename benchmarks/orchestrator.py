"""Measure what a trial costs beside its own work: as sweeps run trials, and as Ray Tune alone does.

    python benchmarks/orchestrator.py --trials 100 400 --rounds 3
    python benchmarks/orchestrator.py --loop --trials 20 --seconds 60

Both run the same number of trials that sleep, for --seconds, a tenth more or less at random, as
many at a time as there are cores, in processes that are reused. Ours has a queue that sweeps fill
trial by trial, work that is chosen as a trial starts, and a decision after each result; Tune
alone has its searcher for grids, and no scheduler. Rounds alternate, and numbers are medians, the
first round of each left out:

    between       ms from the end of a trial to the beginning of the next in its process, the mean
    first         s to the beginning of the first trial; all processes import timm, as any do that
                  train such nets
    wall          ms a trial, with the start of the processes, the sleep taken off
    driver's CPU  ms a trial, with the start
    processes     that had trials

With --loop the alternative is no Ray at all, but a thread for each core that sleeps as long, trial
after trial; all trials take --seconds. The start of Ray itself, once a command, is in neither.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
import ray
from ray import tune

from sweeps.execution.resources import ClusterResources, MemoryNeed, PhaseResources, Placement
from sweeps.execution.tasks import Phase, Queued
from sweeps.execution.tune_runner import run_trials
from sweeps.planning.options.groups import ResourceOptions
from trainables.data.options import ReadOptions
from trainables.machine import available_cores
from trainables.ray_backend.tune_trainables import TrialContext

NET = ("b0", 224)


def sleep() -> None:
    """Do what a trial does."""
    spread = float(os.environ.get("TRIAL_SPREAD", "0.1"))
    time.sleep(float(os.environ["TRIAL_SECONDS"]) * (1 + random.uniform(-spread, spread)))


class Idle(tune.Trainable):
    """A trial that sleeps, in one step."""

    def setup(self, config: dict[str, Any], context: TrialContext | None = None) -> None:
        """Import what any trial does that trains such nets."""
        importlib.import_module("timm")

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Go on with another trial in this process."""
        return True

    def begin(self, work: object) -> None:
        """Take the work."""

    def node_id(self) -> str:
        """Name no node."""
        return ""

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Save nothing."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Load nothing."""

    def step(self) -> dict[str, Any]:
        """Sleep."""
        began = time.time()
        sleep()
        when = {"began": began, "ended": time.time()}
        return {"done": True, "process": os.getpid(), "name": self.trial_id, **when}


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What trials have done."""

    slept: float  # seconds of all
    first: float  # when the first one began, by the clock
    between: tuple[float, ...]  # seconds from each to the next of its process
    processes: int  # that they ran in


def ran(results: Sequence[dict[str, Any]]) -> Ran:
    """Sum up the results of trials, some of which Ray Tune may have told twice."""
    of_process: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for result in {result["name"]: result for result in results}.values():
        of_process[result["process"]].append((result["began"], result["ended"]))
    trials = [sorted(own) for own in of_process.values()]
    return Ran(
        slept=sum(ended - began for own in trials for began, ended in own),
        first=min(own[0][0] for own in trials),
        between=tuple(after[0] - one[1] for own in trials for one, after in pairwise(own)),
        processes=len(trials),
    )


def ours(trials: int, cores: int) -> Ran:
    """Run trials as a phase of a sweep does."""
    left = iter(range(trials))
    context = TrialContext(
        store=Path("/"), data=Path("/"), images_digest="", read=ReadOptions(), cache=Path("/"),
    )  # fmt: skip
    machine = ClusterResources(
        cores=cores, gpus=0, gpus_per_node=0, gpu=None, memory_gb=64, cluster=False
    )
    placement = Placement(
        options=ResourceOptions(concurrency=cores, cpus_per_trial=1), cluster_resources=machine
    )
    resources = PhaseResources(
        placement=placement, needs={NET: MemoryNeed(gb=lambda _: 0.1, max_workers=1)}, trials=trials
    )
    results: list[dict[str, Any]] = []

    def note(_: object, result: dict[str, Any]) -> bool:
        results.append(result)
        return False

    phase = Phase(
        queue=lambda: Queued(net=NET) if next(left, None) is not None else None,
        begin=lambda _: object(),  # type: ignore[arg-type,return-value]
        should_continue=note,
        failed=lambda _, trace: sys.exit(trace),
    )
    run_trials(Idle, [(phase, resources)], context)
    assert len(results) >= trials
    return ran(results)


def bare(trials: int, cores: int) -> Ran:
    """Run trials by Ray Tune alone."""
    with tempfile.TemporaryDirectory() as scratch:
        results = tune.Tuner(
            tune.with_resources(Idle, {"CPU": 1}),
            param_space={"number": tune.grid_search(list(range(trials)))},
            tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=cores),
            run_config=tune.RunConfig(storage_path=scratch, verbose=0),
        ).fit()
    assert len(results) == trials and not results.errors
    ended = [results[place].metrics for place in range(trials)]
    return ran([metrics for metrics in ended if metrics])


def loop(trials: int, cores: int) -> None:
    """Do what the trials do in a bare loop, with a thread for each core."""
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(lambda _: sleep(), range(trials)))


def timed(run: Callable[[int, int], Ran], trials: int, cores: int) -> dict[str, float]:
    """Return what the columns of the table are, see above."""
    began, cpu = time.time(), time.process_time()
    done = run(trials, cores)
    wall, cpu = time.time() - began, time.process_time() - cpu
    return {
        "between": 1000 * statistics.mean(done.between),
        "first": done.first - began,
        "wall": 1000 * (wall - done.slept / cores) / trials,
        "driver's CPU": 1000 * cpu / trials,
        "processes": done.processes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, nargs="*", default=[100, 400], help="in a run")
    parser.add_argument("--rounds", type=int, default=4, help="runs of each, the first left out")
    parser.add_argument("--seconds", type=float, default=0.5, help="that a trial sleeps")
    parser.add_argument("--loop", action="store_true", help="compare with a bare loop instead")
    args = parser.parse_args()
    with alone(args.seconds) as cores:
        if args.loop:
            compare_with_loop(args.trials, cores)
        else:
            compare(args.trials, args.rounds, cores)


@contextmanager
def alone(seconds: float) -> Iterator[int]:
    """Start Ray on this machine while the block runs, for trials of so many seconds.

    Yields:
        The number of cores.
    """
    os.environ["TRIAL_SECONDS"] = str(seconds)
    cores = available_cores()
    ray.init(
        address="local",
        num_cpus=cores,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )
    try:
        yield cores
    finally:
        ray.shutdown()


def compare_with_loop(counts: Sequence[int], cores: int) -> None:
    os.environ["TRIAL_SPREAD"] = "0"  # else which trials are long decides
    print("| trials | s of wall time | a bare loop | ratio |\n|---|---|---|---|", flush=True)
    for trials in counts:
        walls = []
        for run in (ours, loop):
            began = time.perf_counter()
            run(trials, cores)
            walls.append(time.perf_counter() - began)
        mine, bare_s = walls
        print(f"| {trials} | {mine:.1f} | {bare_s:.1f} | {mine / bare_s:.3f} |", flush=True)


def compare(counts: Sequence[int], rounds: int, cores: int) -> None:
    print("| trials | | ours | Tune alone | ratio |\n|---|---|---|---|---|", flush=True)
    for trials in counts:
        found: dict[str, list[dict[str, float]]] = {"ours": [], "bare": []}
        for _ in range(rounds):
            for name, run in (("ours", ours), ("bare", bare)):
                found[name].append(timed(run, trials, cores))
        for what in found["ours"][0]:
            mine, theirs = (
                statistics.median(one[what] for one in found[name][1:]) for name in found
            )
            print(
                f"| {trials} | {what} | {mine:.1f} | {theirs:.1f} | {mine / theirs:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
