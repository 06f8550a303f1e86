"""A sweep without nets in an object store, whose driver stops itself (SIGSTOP) before a write.

Run by test_replaced.py: ``python -m tests.end_to_end.standing_driver OUT URI BEFORE``, where BEFORE
is "journal", "event", "results" or "" for not at all.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

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


def main(out: str, uri: str, before: str) -> int:
    interrupt_on_sigterm()
    patch = pytest.MonkeyPatch()
    sweep = FakeSweep(Path(out), patch)
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


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
