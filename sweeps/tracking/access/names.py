"""Check the names that a sweep gives MLflow, and name what MLflow has its own rules for.

Imports nothing heavy: the command line checks them first.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from sweeps.planning.spec import SweepSpec
from trainables.errors import UserError

LONGEST_MODEL_NAME, LONGEST_SET_NAME = 256, 200  # characters


def check_names(spec: SweepSpec) -> None:
    """Check the names that a sweep gives MLflow.

    Raises:
        UserError: MLflow would refuse one, or make one of two.
    """
    name = spec.tracking.register_as
    if set("/:") & set(name) or name == "." or name.startswith(".."):
        raise UserError(
            f"--register-as {name} is no name for a registered model in MLflow: give one without "
            "/ and :, and without dots in front."
        )
    if len(name) > LONGEST_MODEL_NAME:
        raise UserError(
            f"--register-as {name[:20]}... has {len(name)} characters: give at most "
            f"{LONGEST_MODEL_NAME}."
        )
    for option, given in (("--register-as", name), ("--experiment", spec.tracking.experiment)):
        if not given.isprintable():  # Nor are bytes that are not UTF-8.
            raise UserError(
                f"{option} {given!r} holds characters that cannot be printed: leave them out."
            )
    _check_test_sets(spec.extra_test_sets)


def _check_test_sets(names: Iterable[str]) -> None:
    by_group = defaultdict(list)
    for name in names:
        by_group[metric_group(name)].append(name)
        if len(name) > LONGEST_SET_NAME:
            raise UserError(
                f"--also-test {name[:20]}... has a name of {len(name)} characters: give at most "
                f"{LONGEST_SET_NAME}."
            )
    for group, same in by_group.items():
        if len(same) > 1:
            raise UserError(
                f"--also-test {' '.join(same)} would all be {group} in MLflow: tell them apart by "
                "letters or digits."
            )


def metric_group(split: str) -> str:
    """Name a split as the first part of a metric, without what MLflow does not allow there.

    These are most signs, and dots that would make a path of it.
    """
    return re.sub(r"^\.+", lambda dots: "_" * len(dots[0]), re.sub(r"[^\w .-]", "_", split))
