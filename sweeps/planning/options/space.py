"""The search space: for each hyperparameter that is searched a range, or the choices.

A file gives entries, in one of three forms:

    lr: {low: 1e-4, high: 1e-2, log: true}    a range of a number
    optimizer: {choices: [sgd, adamw]}        choices
    ema_decay: 0.999                          one value

Checked, an entry is kept as JSON values: in a spec it is the content that counts, not the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from sweeps.planning.options.groups import TrunkOptions
from sweeps.planning.options.hyperparameters import Hyperparameter, hyperparameters
from sweeps.planning.options.settings_file import read_settings
from trainables.errors import UserError, printable
from trainables.training.recipe import Hyper

Entries = Mapping[str, Any]
"""Checked entries by name: {"low", "high", "log"}, {"choices"}, or one value."""

PLAIN_LR = (2e-4, 5e-3)  # learning rates, where nothing speaks for others


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A range of a number, both ends in it."""

    low: float
    high: float
    log: bool = False
    integer: bool = False

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The least and the greatest value."""
        return (self.low, self.high)

    @property
    def size(self) -> float:
        """The number of values; infinite for a range of real numbers."""
        if self.low == self.high:
            return 1
        return self.high - self.low + 1 if self.integer else math.inf

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.low:g}"
        return f"{self.low:g} to {self.high:g}{' (log)' if self.log else ''}"


@dataclass(frozen=True, kw_only=True)
class Choices:
    """Values to choose from; the first one is tried first."""

    values: tuple[Any, ...]

    @property
    def extremes(self) -> tuple[Any, ...]:
        """All values."""
        return self.values

    @property
    def size(self) -> float:
        """The number of values."""
        return len(self.values)

    def __str__(self) -> str:
        return " or ".join(map(value_of_setting_in_words, self.values))


Dimension = Interval | Choices
SearchSpace = Mapping[str, Dimension]
"""By name, in the order of :func:`hyperparameters`, whatever the order of the entries."""


def value_of_setting_in_words(value: Any) -> str:
    """Write the value of a hyperparameter: six digits of a number, a pair with a dash."""
    if isinstance(value, (tuple, list)):
        return "-".join(map(value_of_setting_in_words, value))
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def search_space(trunks: TrunkOptions, entries: Entries | None) -> SearchSpace:
    """Make the space: the ranges of the options, and the entries in their place and beside them.

    A range that waits for what suits the images is the widest that is usual (:data:`PLAIN_LR`).
    """
    entries = entries or {}
    searched = {field.name for field in fields(Hyper)}
    space: dict[str, Dimension] = {}
    for name, parameter in hyperparameters().items():
        if name in entries:
            space[name] = _dimension(parameter, entries[name])
        elif name in searched:
            low, high = map(float, getattr(trunks, name) or PLAIN_LR)
            space[name] = Interval(low=low, high=high, log=parameter.log)
    return space


def _dimension(parameter: Hyperparameter, entry: Any) -> Dimension:
    if not isinstance(entry, Mapping):
        return Choices(values=(parameter.value_of(entry),))
    if "choices" in entry:
        return Choices(values=tuple(map(parameter.value_of, entry["choices"])))
    return Interval(**entry, integer=parameter.hint is int)


def space_size(space: SearchSpace) -> float:
    """Count the points of a space; infinite if it holds a range of real numbers."""
    return math.prod(dimension.size for dimension in space.values())


def absorbed(trunks: TrunkOptions, entries: Entries) -> tuple[TrunkOptions, Entries | None]:
    """Move the entries that options can say as well into the options.

    So a value that is fixed in a file holds wherever the option would, and both are one sweep.

    Returns:
        The options, and the entries that are left; None: none is.
    """
    left, options, known = {}, dict[str, Any](), hyperparameters()
    for name, entry in entries.items():
        is_range_option = name in {field.name for field in fields(Hyper)}
        if not isinstance(entry, Mapping):
            value = known[name].value_of(entry)
            options[name] = (value, value) if is_range_option else value
        elif is_range_option and entry.get("log") == known[name].log:
            options[name] = (entry["low"], entry["high"])
        else:
            left[name] = entry
    return replace(trunks, **options), left or None


# --- the file -----------------------------------------------------------------------------------


def read_space(path: Path) -> Entries:
    """Read and check the file that ``--space`` names.

    Raises:
        UserError: it cannot be read, or an entry is unknown, of another form or out of bounds.
    """
    name = f"--space {printable(str(path))}"
    given = read_settings(path, "--space")
    if not isinstance(given, dict) or not given:
        raise UserError(
            f"{name} holds no entries: give hyperparameters by name, as "
            "lr: {low: 1e-4, high: 1e-2}."
        )
    return check_entries(given, name)


def check_entries(
    given: Mapping[str, Any], name: str, known: Mapping[str, Hyperparameter] | None = None
) -> Entries:
    """Check the entries of a file.

    Args:
        name: of the file, for errors.
        known: the hyperparameters; None: those of the options.

    Raises:
        UserError: one is unknown, of another form or out of bounds.
    """
    known = hyperparameters() if known is None else known
    check_names(given, known, name)
    entries = {}
    for entry, value in given.items():
        try:
            entries[entry] = _entry(known[entry], value)
        except ValueError as error:
            raise UserError(f"{name}: {entry} {error}.") from None
    return entries


def check_names(given: Mapping[str, Any], known: Mapping[str, Any], name: str) -> None:
    """Check that what is named is known.

    Args:
        name: of the place in the file, for the error.

    Raises:
        UserError: something is not.
    """
    for entry in given:
        if entry not in known:
            shown = printable(entry)[:80]
            raise UserError(f"{name}: {shown} is none of {', '.join(known)}: give one of these.")


def _entry(parameter: Hyperparameter, given: Any) -> Any:
    """Check one entry; an error says what follows the entry's name in a sentence."""
    if not isinstance(given, dict):
        return as_json(_value(parameter, given, ""))
    if "choices" in given:
        return _choices(parameter, given)
    if not {"low", "high"} <= given.keys() <= {"low", "high", "log"}:
        raise ValueError(
            "is in none of the three forms: give one value, {choices: [...]}, or {low: ..., "
            "high: ...} with log: true or false if you like"
        )
    return _interval(parameter, given)


def _choices(parameter: Hyperparameter, given: Mapping[str, Any]) -> Any:
    values = given["choices"]
    if len(given) > 1 or not isinstance(values, list) or not values:
        raise ValueError("has choices that are no list alone: give {choices: [...]}")
    found = [_value(parameter, value, "choices: ") for value in values]
    if len(set(found)) < len(found):
        raise ValueError("has a choice twice: give each once")
    return {"choices": [as_json(v) for v in found]} if len(found) > 1 else as_json(found[0])


def _interval(parameter: Hyperparameter, given: Mapping[str, Any]) -> Any:
    if not parameter.is_number:
        raise ValueError(f"is {parameter.in_words}, and has no range: give {{choices: [...]}}")
    low, high = (_value(parameter, given[end], f"{end}: ") for end in ("low", "high"))
    log = given.get("log", parameter.log)
    if not isinstance(log, bool):
        raise ValueError("has a log that is neither true nor false: give one of these")
    if low > high:
        raise ValueError(f"has its low end {low:g} above its high end {high:g}: exchange them")
    if log and low <= 0:
        raise ValueError(
            f"has a low end of {low:g} on a log scale: give more than 0, or log: false"
        )
    return {"low": low, "high": high, "log": log} if low < high else low


def _value(parameter: Hyperparameter, given: Any, where: str) -> Any:
    try:
        return parameter.value_of(given)
    except ValueError as error:
        shown = printable(str(given))[:80]
        raise ValueError(f"has {where}{shown}, which {error}: correct it") from None


def as_json(value: Any) -> Any:
    """Write a value as JSON has it: a pair as a list."""
    return list(value) if isinstance(value, tuple) else value
