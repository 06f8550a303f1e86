"""Points that are known to be good, and are tried before the search proposes any.

A file lists them; each names some hyperparameters, and may be bound to a variant or to a train
resolution:

    - {lr: 2e-3, weight_decay: 0.05}
    - {variant: b0, train_res: 128, lr: 1e-3}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeps.planning.options.hyperparameters import Hyperparameter, hyperparameters
from sweeps.planning.options.settings_file import read_settings
from sweeps.planning.options.space import as_json, check_names
from trainables.errors import UserError, printable

Try = Mapping[str, Any]
"""Checked values by name, as JSON values; "variant" and "train_res" bind it."""
BINDING = ("variant", "train_res")


def read_tries(path: Path) -> tuple[Try, ...]:
    """Read and check the file that ``--try`` names.

    Raises:
        UserError: it cannot be read, or a point names something unknown or out of bounds.
    """
    name = f"--try {printable(str(path))}"
    given = read_settings(path, "--try")
    if not isinstance(given, list) or not given:
        raise UserError(f"{name} holds no list of points: give some, as - {{lr: 1e-3}}.")
    return tuple(_checked(point, f"{name}: point {i}") for i, point in enumerate(given, start=1))


def _checked(given: Any, name: str) -> Try:
    known = hyperparameters()
    if not isinstance(given, dict) or not given:
        raise UserError(f"{name} is no point: give hyperparameters by name, as {{lr: 1e-3}}.")
    check_names(given, {**known, **dict.fromkeys(BINDING)}, name)
    return {entry: _value(known, entry, value, name) for entry, value in given.items()}


def _value(known: Mapping[str, Hyperparameter], entry: str, given: Any, name: str) -> Any:
    shown = printable(str(given))[:80]
    if entry in BINDING:
        kind = str if entry == "variant" else int
        if not isinstance(given, kind) or isinstance(given, bool):
            words = "name one of --variants" if kind is str else "give one of --train-res"
            raise UserError(f"{name}: {entry} {shown} is none: {words}.")
        return given
    try:
        return as_json(known[entry].value_of(given))
    except ValueError as error:
        raise UserError(f"{name}: {entry} is {shown}, which {error}: correct it.") from None
