"""Write options as they are on the command line: their names, and their values."""

from __future__ import annotations

from typing import Any


def option(name: str) -> str:
    """Write a field's name as it is on the command line: "--train-res"."""
    return "the images" if name == "images" else f"--{name.replace('_', '-')}"


def value_in_words(value: Any) -> str:
    """Write an option's value as it is on the command line: lists with spaces between."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
