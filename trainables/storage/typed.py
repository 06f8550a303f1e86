"""Check that a dataclass that was read from JSON holds what its fields declare."""

from __future__ import annotations

import dataclasses
import types
import typing
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

D = TypeVar("D", bound="DataclassInstance")


def checked(value: D) -> D:
    """Return the dataclass, if each field of it is of its declared type; those within are not.

    An int stands for a float, a bool for no number.

    Raises:
        TypeError: a field is of another type.
    """
    for name, hint in _hints(type(value)).items():
        found = getattr(value, name)
        if not fits(found, hint):
            raise TypeError(f"{name} is {type(found).__name__}")
    return value


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind)}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type: a union, a literal, a tuple, or a plain one."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        inner = arguments[:1] * len(value) if Ellipsis in arguments else arguments
        return len(inner) == len(value) and all(map(fits, value, inner))
    if isinstance(origin, type):  # a list or a mapping, whatever it holds
        return isinstance(value, origin)
    if hint in (int, float):
        allowed = (int, float) if hint is float else (int,)
        return isinstance(value, allowed) and not isinstance(value, bool)
    return hint is Any or (isinstance(hint, type) and isinstance(value, hint))
