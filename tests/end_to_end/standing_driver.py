"""A sweep without nets in an object store, whose driver stops itself (SIGSTOP) before a write.

Each is a process of its own, forked from one that has imported what they need and done nothing
else: of the seconds that such a sweep takes, nearly all would be imports.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch

from sweeps.environment import interrupt_on_sigterm
from sweeps.output import location
from sweeps.output.driver import driving
from sweeps.output.location import SweepLocation
from sweeps.scheduling.cell_scheduler import CellScheduler
from tests.factories import spec_with
from tests.fake_sweep import FakeSweep
from tests.fake_training import Farm
from tests.waiting import HANG_S
from trainables.errors import exit_code
from trainables.storage import numbered_lines
from trainables.storage.files import write_state
from trainables.storage.hashing import to_jsonable
from trainables.training.trunk import EpochReport, TrunkSpec, recorded_reports

BEAT_S, DEAD_S = 0.2, 1.5


def step(farm: Farm, trunk: TrunkSpec, reported: int) -> EpochReport:
    """As Farm's, in any store."""
    recorded = recorded_reports(farm.store, trunk.key)
    if reported < len(recorded):
        return recorded[reported]
    report = farm.training(farm.plan, trunk, reported + 1)
    reports = to_jsonable([*recorded, report])
    state = {"model": {"w": torch.tensor([float(report.epoch)])}, "reports": reports}
    write_state(farm.store.trunk(trunk.key) / "state.pt", state)
    return report


def stopping(action: Callable[..., Any], at: int) -> Callable[..., Any]:
    """Stand still before the call of this number, counted from 1."""
    calls = 0

    def stopped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGSTOP)
        return action(*args, **kwargs)

    return stopped


def run(out: Path, uri: str, before: str) -> int:
    """Run the sweep; return its exit code."""
    interrupt_on_sigterm()
    patch = pytest.MonkeyPatch()
    sweep = FakeSweep(out, patch)
    sweep.spec = spec_with(sweep.spec, storage=uri)
    patch.setattr(Farm, "step", step)
    patch.setattr(location, "driving", partial(driving, beat_s=BEAT_S, dead_s=DEAD_S))
    for moment, owner, name, at in (
        ("journal", numbered_lines, "create_line", 6),
        ("event", CellScheduler, "take", 3),
        ("results", SweepLocation, "publish_results", 1),
    ):
        if moment == before:
            patch.setattr(owner, name, stopping(getattr(owner, name), at))
    return exit_code(sweep.run, str)


def _main(said: Path, variables: Mapping[str, str], out: Path, uri: str, before: str) -> None:
    sink = os.open(said, os.O_WRONLY | os.O_CREAT)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    os.environ.update(variables)
    sys.exit(run(out, uri, before))


class StandingDriver:
    """A driver that has been started.

    Args:
        before: where it stops itself: "journal", "event", "results", or "" for not at all.
    """

    def __init__(self, out: Path, uri: str, before: str = ""):
        out.parent.mkdir(exist_ok=True)
        self._said = out.parent / f"{uuid4().hex}.said"
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        arguments = (self._said, dict(os.environ), out, uri, before)
        self._process = context.Process(target=_main, args=arguments)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Return its exit code; None: it has not ended."""
        return self._process.exitcode

    def wake(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def wait(self) -> tuple[int | None, str]:
        """Wait for its end; return its exit code, and what it said."""
        self._process.join(HANG_S)
        return self._process.exitcode, self._said.read_text()
