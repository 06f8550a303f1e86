"""The options that a trunk is trained with, as hyperparameters: what each may be.

They are the fields of :class:`TrunkOptions` that training takes, so that an option which is added
later is one of them by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sweeps.planning.options.groups import TrunkOptions
from sweeps.planning.options.ranges import INTERVAL_OPTIONS, LOG_OPTIONS, RANGE_OF_OPTION, Range
from trainables.storage.typed import fits
from trainables.training.recipe import Hyper, Recipe
from trainables.transforms.augmentation import Augmentation

TRAINED_WITH: tuple[type, ...] = (Hyper, Recipe, Augmentation)
# Trunks are compared after the same epochs, and all of one schedule.
NOT_SEARCHED = ("epochs",)
ANY = Range(-math.inf)
_ONE = {float: "a number", int: "an integer", bool: "true or false", str: "text"}


@dataclass(frozen=True, kw_only=True)
class Hyperparameter:
    """An option of training: its type, its bounds, and the scale that suits it."""

    name: str
    hint: Any
    """Its type, as the dataclass that holds it declares it."""
    allowed: Range
    """The range of the number, or of each number of a pair."""
    log: bool
    """Whether a range of it is on a log scale unless it is said."""

    @property
    def is_number(self) -> bool:
        """Whether it is one number, which may have a range."""
        return self.hint in (int, float)

    @property
    def in_words(self) -> str:
        """What it may be, in words."""
        if get_origin(self.hint) is Literal:
            return f"one of {', '.join(map(str, get_args(self.hint)))}"
        if get_origin(self.hint) is tuple:
            return "two numbers in brackets, the lower one first"
        return _ONE.get(self.hint, str(self.hint))

    def typed(self, given: Any) -> Any:
        """Take a value of its type, whatever the bounds of today.

        Raises:
            ValueError: it is of another type; says what it must be.
        """
        value = _converted(given, self.hint)
        if not fits(value, self.hint):
            raise ValueError(f"is not {self.in_words}")
        return value

    def value_of(self, given: Any) -> Any:
        """Take a value that was given, as training takes it.

        Raises:
            ValueError: it is of another type, or out of bounds; says what it must be.
        """
        value = self.typed(given)
        numbers = value if isinstance(value, tuple) else (value,)
        if isinstance(value, (bool, str)):
            return value
        if not all(self.allowed.admits(number) for number in numbers):
            raise ValueError(f"is out of bounds, which are {self.allowed}")
        if self.name in INTERVAL_OPTIONS and list(numbers) != sorted(numbers):
            raise ValueError(f"is not {self.in_words}")
        return value


def _converted(given: Any, hint: Any) -> Any:
    """Make lists pairs, and integers numbers where numbers are declared: in keys 1 is not 1.0."""
    if get_origin(hint) is tuple and isinstance(given, (list, tuple)):
        inner = get_args(hint)
        return tuple(_converted(v, inner[min(i, len(inner) - 1)]) for i, v in enumerate(given))
    if hint is float and isinstance(given, int) and not isinstance(given, bool):
        try:
            return float(given)
        except OverflowError:
            return math.inf
    return given


@cache  # Types take a millisecond to resolve, and each trunk asks for them.
def hyperparameters(
    options: type = TrunkOptions, trained_with: tuple[type, ...] = TRAINED_WITH
) -> Mapping[str, Hyperparameter]:
    """List the hyperparameters by name, always in the same order.

    Args:
        options: the dataclass whose fields are the options of training.
        trained_with: the dataclasses that a trunk is trained with, which declare the types.
    """
    hints: dict[str, Any] = {}
    for kind in trained_with:
        hints |= get_type_hints(kind)
    declared = {field.name for field in fields(options)}
    first = [field.name for field in fields(trained_with[0])]  # what is searched without a file
    names = dict.fromkeys([*first, *(field.name for field in fields(options))])
    found = {
        name: Hyperparameter(
            name=name,
            hint=hints[name],
            allowed=RANGE_OF_OPTION.get(name, ANY),
            log=name in LOG_OPTIONS,
        )
        for name in names
        if name in hints and name in declared and name not in NOT_SEARCHED
    }
    return MappingProxyType(found)
