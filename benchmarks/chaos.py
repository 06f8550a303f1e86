"""Measure what a sweep loses to faults: machines, processes or its store vanish at random times.

    python benchmarks/chaos.py --faults 20 --out chaos

Each row is one sweep with one fault, on a Ray cluster of this machine (a head and two nodes) with
the store on an S3 server of this machine. All are compared with a sweep that nothing disturbs.
Steps are counted in every process, also in killed ones (counting/sitecustomize.py).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.end_to_end.sweeping import ROOT, board, draw_shapes, environment
from tests.storing import S3Server, served

OUTAGE_S = 30.0
STANDS_STILL_S = 120.0
REPLACED = 2  # exit code of a driver that another one has replaced, or that finds one at work
TIME_LIMIT_S = 400.0
OPTIONS = (
    *("--variants", "lite0", "--train-res", "32", "48", "--test-res", "32", "48", "64"),
    *("--epochs", "3", "--grace-epochs", "1", "--reduction", "2", "--samples", "2"),
    *("--batch-size", "8", "--head-epochs", "3", "--concurrency", "1", "--views", "1"),
    *("--arms", "none", "fix"),
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One sweep with one fault."""

    fault: str
    at_s: float  # Seconds between the start and the fault.
    phase: str  # The phase of the sweep when the fault came.
    survived: bool  # It ended well, with the same choice and the same weights.
    cells_lost: int
    steps_redone: int
    seconds_lost: float


@dataclass(frozen=True)
class Result:
    """How a sweep ended."""

    exit_code: int
    seconds: float
    steps: int
    rows: tuple[str, ...]  # Rows of the leaderboard without measured times.
    weights: bytes

    @property
    def cells(self) -> set[str]:
        return {json.loads(row)["cell"] for row in self.rows}


class World:
    """A Ray cluster whose nodes can be taken away, and a store that can be stopped."""

    def __init__(self, folder: Path, store: S3Server):
        from ray.cluster_utils import Cluster

        self.folder, self.store = folder, store
        self.data = draw_shapes(folder / "data")
        self.steps = folder / "steps"
        self.steps.touch()
        none = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 100_000_000}
        self.cluster = Cluster(initialize_head=True, head_node_args=none)
        self.nodes: list[Any] = []
        self.mend()

    def mend(self) -> None:
        """Bring the cluster back to two nodes."""
        while len(self.nodes) < 2:
            node = self.cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
            self.nodes.append(node)

    def remove_node(self, node: Any) -> None:
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.remove(node)

    def trial(self) -> tuple[psutil.Process, Any] | None:
        """Find a process that works on a trial, and its node."""
        for node in self.nodes:
            with suppress(psutil.Error):  # The process may end at that moment.
                raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
                for child in raylet.children(recursive=True):
                    with suppress(psutil.Error):
                        if "Trainable" in " ".join(child.cmdline()):
                            return child, node
        return None

    def command(self, name: str, out_name: str) -> list[str]:
        script = [sys.executable, "sweeps/fixres_grid.py", "--data", str(self.data)]
        out = ("--out", str(self.folder / out_name), "--storage", self.store.uri(name))
        return [*script, *out, "--cache-dir", str(self.folder / "cache"), *OPTIONS]

    def start(self, name: str, out_name: str = "") -> subprocess.Popen[bytes]:
        """Start a driver of a sweep; another one's folder has another name."""
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                self.command(name, out_name or name),
                cwd=ROOT,
                env=environment() | {"RAY_ADDRESS": self.cluster.address},
                stdout=log,
                stderr=log,
            )

    def phase(self, name: str) -> str:
        """Tell the phase of a running sweep from its log."""
        return "cells" if "\ncells: " in self.log(name) else "trunks"

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def result(self, name: str, exit_code: int, seconds: float, steps: int) -> Result:
        out = self.folder / name
        rows, weights = (), b""
        if exit_code == 0:
            rows = tuple(json.dumps(row, sort_keys=True) for row in board(out))
            weights = (out / "model" / "model.safetensors").read_bytes()
        return Result(exit_code, seconds, steps, rows, weights)

    def counted(self) -> int:
        return self.steps.stat().st_size


@dataclass(frozen=True)
class Target:
    """What a fault can hit while trials run."""

    driver: subprocess.Popen[bytes]
    trial: psutil.Process
    node: Any


Fault = Callable[[World, Target], None]


def kill_worker(_: World, target: Target) -> None:
    target.trial.kill()


def notice(_: World, target: Target) -> None:
    target.trial.terminate()


def remove_node(world: World, target: Target) -> None:
    world.remove_node(target.node)


def kill_driver(_: World, target: Target) -> None:
    target.driver.kill()


def stop_driver(_: World, target: Target) -> None:
    target.driver.send_signal(signal.SIGTERM)


def lose_store(world: World, _: Target) -> None:
    world.store.kill()
    threading.Timer(OUTAGE_S, world.store.start).start()


def stand_still(world: World, target: Target) -> None:
    """Stop a driver where it stands, as a paused machine does, and wake it up later."""
    target.driver.send_signal(signal.SIGSTOP)
    threading.Timer(STANDS_STILL_S, target.driver.send_signal, (signal.SIGCONT,)).start()


def add_driver(_: World, __: Target) -> None:
    """Leave the driver alone: another one is started beside it."""


FAULTS: dict[str, Fault] = {
    "worker killed": kill_worker,
    "notice to a worker (SIGTERM)": notice,
    "node removed": remove_node,
    "driver killed, same command again": kill_driver,
    "driver stopped (SIGTERM), same command again": stop_driver,
    f"store gone for {OUTAGE_S:.0f} s": lose_store,
    f"driver stands still for {STANDS_STILL_S:.0f} s, another takes over": stand_still,
    "a second driver": add_driver,
}


def undisturbed(world: World, name: str) -> tuple[Result, tuple[float, float]]:
    """Run a sweep to its end; also return the seconds between which trials ran."""
    began, before, seen = time.monotonic(), world.counted(), []
    driver = world.start(name)
    while driver.poll() is None:
        if world.trial() is not None:
            seen.append(time.monotonic() - began)
        time.sleep(0.2)
    seconds = time.monotonic() - began
    result = world.result(name, driver.wait(), seconds, world.counted() - before)
    if result.exit_code != 0:
        sys.exit(f"the undisturbed sweep failed: {world.log(name)}")
    return result, (seen[0], seen[-1])


def disturbed(world: World, name: str, fault: Fault, at_s: float) -> tuple[Result, str] | None:
    """Run a sweep with a fault to its end; a lost driver is started again.

    One that stands still is replaced by another, and must end as soon as it wakes up; one that is
    at work stays, and the other must be refused.

    Returns:
        The result, and the phase in which the fault came; None: the sweep was over before.
    """
    began, before = time.monotonic(), world.counted()
    driver = world.start(name)
    time.sleep(at_s)
    while (running := world.trial()) is None:
        if driver.poll() is not None:
            return None
        time.sleep(0.05)
    phase = world.phase(name)
    with suppress(psutil.NoSuchProcess):  # The process ended by itself at that moment.
        fault(world, Target(driver, *running))
    out = f"{name}-other" if fault is stand_still else name
    other = world.start(name, f"{name}-other") if fault in (stand_still, add_driver) else None
    if fault is stand_still:
        assert other is not None
        driver, other = other, driver
    code = driver.wait(TIME_LIMIT_S)
    if fault in (kill_driver, stop_driver) and code != 0:
        code = world.start(name).wait(TIME_LIMIT_S)
    seconds = time.monotonic() - began
    if other is not None and other.wait(TIME_LIMIT_S) != REPLACED:
        code = code or 1
    return world.result(out, code, seconds, world.counted() - before), phase


def line_of(fault: str, at_s: float, phase: str, result: Result, undisturbed: Result) -> Line:
    same = result.rows == undisturbed.rows and result.weights == undisturbed.weights
    return Line(
        fault=fault,
        at_s=round(at_s, 1),
        phase=phase,
        survived=result.exit_code == 0 and same,
        cells_lost=len(undisturbed.cells - result.cells),
        steps_redone=result.steps - undisturbed.steps,
        seconds_lost=round(result.seconds - undisturbed.seconds, 1),
    )


def table(lines: list[Line]) -> str:
    head = "| fault | at, s | phase | survived | cells lost | steps redone | seconds lost |"
    rows = [
        f"| {one.fault} | {one.at_s:.1f} | {one.phase} | {'yes' if one.survived else 'NO'} "
        f"| {one.cells_lost} | {one.steps_redone} | {one.seconds_lost:.1f} |"
        for one in lines
    ]
    return "\n".join([head, "|---|---|---|---|---|---|---|", *rows])


@contextmanager
def a_world() -> Iterator[World]:
    os.environ |= {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": f"{Path(__file__).parent / 'counting'}:{ROOT}",
    }
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    os.environ["STEPS_FILE"] = str(folder / "steps")
    with served() as store:
        os.environ |= store.environment
        world = World(folder, store)
        try:
            yield world
        finally:
            world.cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=24, help="how many sweeps, a fault in each")
    parser.add_argument("--kinds", nargs="*", default=list(FAULTS), help="which faults, in turn")
    parser.add_argument("--seed", type=int, default=0, help="of the times")
    parser.add_argument("--out", type=Path, default=None, help="folder for chaos.json, chaos.md")
    args = parser.parse_args()
    draw, lines = random.Random(args.seed), []
    with a_world() as world:
        undisturbed(world, "warm")  # This decodes the images and fills the caches.
        whole, window = undisturbed(world, "whole")
        print(f"undisturbed: {whole.seconds:.1f} s, {whole.steps} steps, {len(whole.cells)} cells")
        while len(lines) < args.faults:
            kind = args.kinds[len(lines) % len(args.kinds)]
            at_s, name = draw.uniform(*window), f"sweep{draw.getrandbits(32):08x}"
            outcome = disturbed(world, name, FAULTS[kind], at_s)
            world.mend()
            if outcome is None:  # Sweeps have become faster, as on a machine that others use too.
                window = (window[0], max(window[0] + 1, at_s))
                continue
            lines.append(line_of(kind, at_s, outcome[1], outcome[0], whole))
            print(lines[-1], flush=True)
            if not lines[-1].survived:
                print(world.log(name)[-4000:])
    print(table(lines))
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        reference = {"seconds": whole.seconds, "steps": whole.steps, "cells": len(whole.cells)}
        record = {"undisturbed": reference, "faults": [asdict(line) for line in lines]}
        (args.out / "chaos.json").write_text(json.dumps(record, indent=2) + "\n")
        (args.out / "chaos.md").write_text(table(lines) + "\n")


if __name__ == "__main__":
    main()
