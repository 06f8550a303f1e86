"""The options of the search for hyperparameters; what files hold is read with the options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from sweeps.planning.options.space import read_space
from sweeps.planning.options.tries import Try, read_tries

Searcher = Literal["tpe", "random", "qmc"]

Tries = tuple[Try, ...]

_SPACE = tyro.constructors.PrimitiveConstructorSpec[Any](
    nargs=1,
    metavar="FILE",
    instance_from_str=lambda given: read_space(Path(given[0])),
    is_instance=lambda value: value is None or isinstance(value, Mapping),
    str_from_instance=lambda value: [str(value)],
)
_TRIES = tyro.constructors.PrimitiveConstructorSpec[Any](
    nargs=1,
    metavar="FILE",
    instance_from_str=lambda given: read_tries(Path(given[0])),
    is_instance=lambda value: value is None or isinstance(value, tuple),
    str_from_instance=lambda value: [str(value)],
)


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Search (for the hyperparameters of trunks)"""

    samples: int = 4
    """Trunks of each variant and train resolution: the middle of the ranges, then as proposed."""
    searcher: Searcher = "tpe"
    """tpe learns from trunks that were trained; random; qmc: a scrambled Sobol sequence, evener."""
    space: Annotated[Mapping[str, Any] | None, _SPACE] = None
    """YAML of ranges and choices for any option of trunks but --epochs; docs/search.md shows it."""
    transfer: bool = False
    """Begin with small variants; a larger one's first trunk takes what was best of a smaller.

    As far as that has finished by then: nothing waits for it."""
    repeat: int = 1
    """Trainings, each with another seed, of the trunks that are fixed; their mean is judged."""
    try_: Annotated[Tries | None, _TRIES, tyro.conf.arg(name="try")] = None
    """YAML or JSON: points that each variant and train resolution tries first, in order."""
