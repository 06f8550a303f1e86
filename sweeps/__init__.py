"""Search variants, train and test resolutions for the FixEfficientNet that serves best.

    from sweeps import run_sweep

    result = run_sweep(data="photos", variants=["b0", "b1"], train_res=[128, 160], out="out")
    result.best, result.leaderboard, result.model()

What is imported from here is loaded when it is used: importing the package takes no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.interface import SweepResult, open_result, run_sweep, sweep_spec
    from sweeps.planning.spec import SweepSpec

__all__ = ["SweepResult", "SweepSpec", "open_result", "run_sweep", "sweep_spec"]
_HOMES = dict.fromkeys(__all__, "sweeps.interface") | {"SweepSpec": "sweeps.planning.spec"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
