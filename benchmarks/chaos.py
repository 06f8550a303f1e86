"""What a sweep loses to faults: machines, processes and the store taken away at random seconds.

    python benchmarks/chaos.py --faults 20 --out chaos

Each row is one sweep on a Ray cluster of this machine (a head and two nodes), its store on an S3
server of this machine, and one fault in it; all are compared with one that nothing disturbs. Steps
are counted from outside, in every process, killed ones included (counting/sitecustomize.py).
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
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.end_to_end.sweeping import ROOT, board, draw_shapes, environment
from tests.storing import S3Server, served

OUTAGE_S = 30.0
TIME_LIMIT_S = 400.0
OPTIONS = (
    *("--variants", "lite0", "--train-res", "32", "48", "--test-res", "32", "48", "64"),
    *("--epochs", "4", "--grace-epochs", "1", "--reduction", "2", "--samples", "2"),
    *("--batch-size", "8", "--head-epochs", "3", "--concurrency", "1", "--views", "1"),
    *("--arms", "none", "crop1", "fix"),
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One sweep with one fault."""

    fault: str
    at_s: float  # after the start
    phase: str  # of the sweep, when it came
    survived: bool  # ended well, with the same choice and the same weights
    cells_lost: int
    steps_redone: int
    seconds_lost: float


@dataclass(frozen=True)
class Result:
    """What a sweep came to."""

    exit_code: int
    seconds: float
    steps: int
    rows: tuple[str, ...]  # of the leaderboard, without clocks
    weights: bytes

    @property
    def cells(self) -> set[str]:
        return {json.loads(row)["cell"] for row in self.rows}


class World:
    """A Ray cluster whose nodes can be taken away, and a store that can."""

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
        """Two nodes, and a store that answers."""
        while len(self.nodes) < 2:
            node = self.cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
            self.nodes.append(node)

    def remove_node(self, node: Any) -> None:
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.remove(node)

    def trial(self) -> tuple[psutil.Process, Any] | None:
        """A process that works on a trial, and its node."""
        for node in self.nodes:
            raylets = [info.process.pid for info in node.all_processes["raylet"]]
            for child in psutil.Process(raylets[0]).children(recursive=True):
                title = " ".join(child.cmdline())
                if "Trainable" in title or "TrunkTrial" in title or "CellTrial" in title:
                    return child, node
        return None

    def command(self, name: str) -> list[str]:
        script = [sys.executable, "sweeps/fixres_grid.py", "--data", str(self.data)]
        out = ("--out", str(self.folder / name), "--storage", self.store.uri(name))
        return [*script, *out, "--cache-dir", str(self.folder / "cache"), *OPTIONS]

    def start(self, name: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                self.command(name),
                cwd=ROOT,
                env=environment() | {"RAY_ADDRESS": self.cluster.address},
                stdout=log,
                stderr=log,
            )

    def phase(self, name: str) -> str:
        """Of a sweep that is running, by what its own folder and log say."""
        log = (self.folder / f"{name}.log").read_text(errors="replace")
        if "\ncell " in log:
            return "cells"
        return "trunks" if "epoch" in log.partition("Plan")[2] else "start"

    def result(self, name: str, exit_code: int, seconds: float, steps: int) -> Result:
        out = self.folder / name
        rows, weights = (), b""
        if exit_code == 0:
            rows = tuple(json.dumps(row, sort_keys=True) for row in board(out))
            weights = (out / "model" / "model.safetensors").read_bytes()
        return Result(exit_code, seconds, steps, rows, weights)

    def counted(self) -> int:
        return self.steps.stat().st_size


Fault = Callable[[World, subprocess.Popen[bytes]], None]


def _with_trial(world: World, act: Callable[[psutil.Process, Any], None]) -> None:
    """Wait for a trial that runs, and do it to that."""
    while (found := world.trial()) is None:
        time.sleep(0.1)
    act(*found)


def kill_worker(world: World, _: subprocess.Popen[bytes]) -> None:
    _with_trial(world, lambda process, _node: process.kill())


def notice(world: World, _: subprocess.Popen[bytes]) -> None:
    _with_trial(world, lambda process, _node: process.terminate())


def remove_node(world: World, _: subprocess.Popen[bytes]) -> None:
    _with_trial(world, lambda _process, node: world.remove_node(node))


def kill_driver(_: World, driver: subprocess.Popen[bytes]) -> None:
    driver.kill()


def stop_driver(_: World, driver: subprocess.Popen[bytes]) -> None:
    driver.send_signal(signal.SIGTERM)


def lose_store(world: World, _: subprocess.Popen[bytes]) -> None:
    world.store.kill()
    threading.Timer(OUTAGE_S, world.store.start).start()


FAULTS: dict[str, Fault] = {
    "worker killed": kill_worker,
    "notice to a worker (SIGTERM)": notice,
    "node removed": remove_node,
    "driver killed, same command again": kill_driver,
    "driver stopped (SIGTERM), same command again": stop_driver,
    f"store gone for {OUTAGE_S:.0f} s": lose_store,
}


def sweep(world: World, name: str, fault: Fault | None, at_s: float) -> tuple[Result, str]:
    """Run one to its end, started again where its driver is what was lost."""
    began, before, phase = time.monotonic(), world.counted(), ""
    driver = world.start(name)
    if fault is not None:
        while time.monotonic() - began < at_s and driver.poll() is None:
            time.sleep(0.05)
        phase = world.phase(name)
        if driver.poll() is None:
            fault(world, driver)
    code = driver.wait(TIME_LIMIT_S)
    if fault in (kill_driver, stop_driver) and code != 0:
        code = world.start(name).wait(TIME_LIMIT_S)
    seconds = time.monotonic() - began
    return world.result(name, code, seconds, world.counted() - before), phase


def line_of(fault: str, at_s: float, phase: str, found: Result, whole: Result) -> Line:
    same = found.rows == whole.rows and found.weights == whole.weights
    return Line(
        fault=fault,
        at_s=round(at_s, 1),
        phase=phase,
        survived=found.exit_code == 0 and same,
        cells_lost=len(whole.cells - found.cells),
        steps_redone=found.steps - whole.steps,
        seconds_lost=round(found.seconds - whole.seconds, 1),
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
    asked = parser.parse_args()
    draw, lines = random.Random(asked.seed), []
    with a_world() as world:
        sweep(world, "warm", None, 0.0)  # decodes the images, fills the caches
        whole, _ = sweep(world, "whole", None, 0.0)
        if whole.exit_code != 0:
            print((world.folder / "whole.log").read_text())
            sys.exit("the undisturbed sweep failed")
        print(f"undisturbed: {whole.seconds:.1f} s, {whole.steps} steps, {len(whole.cells)} cells")
        for i in range(asked.faults):
            kind = asked.kinds[i % len(asked.kinds)]
            at_s = draw.uniform(0.2, 0.9) * whole.seconds
            found, phase = sweep(world, f"sweep{i}", FAULTS[kind], at_s)
            lines.append(line_of(kind, at_s, phase, found, whole))
            print(lines[-1], flush=True)
            if not lines[-1].survived:
                print((world.folder / f"sweep{i}.log").read_text()[-4000:])
            world.mend()
    print(table(lines))
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        undisturbed = {"seconds": whole.seconds, "steps": whole.steps, "cells": len(whole.cells)}
        record = {"undisturbed": undisturbed, "faults": [asdict(line) for line in lines]}
        (asked.out / "chaos.json").write_text(json.dumps(record, indent=2) + "\n")
        (asked.out / "chaos.md").write_text(table(lines) + "\n")


if __name__ == "__main__":
    main()
