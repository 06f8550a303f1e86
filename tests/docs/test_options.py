"""The page of all options is what its script makes of the options today."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from sweeps.planning.spec import SweepSpec
from sweeps.select_best import SelectOptions

DOCS = Path(__file__).resolve().parents[2] / "docs"
WRITTEN = (DOCS / "options.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page() -> Callable[[str], str]:
    """The function that makes the tables anew."""
    return runpy.run_path(str(DOCS / "write_options.py"))["page"]


def option_fields(options: Any) -> Iterator[tuple[str, Any]]:
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value):
            yield from option_fields(value)
        else:
            yield field.name, value


def test_the_page_is_fresh(page: Callable[[str], str]) -> None:
    assert page(WRITTEN) == WRITTEN, "docs/options.md is stale: run make docs"


@pytest.mark.parametrize(
    "options", [SweepSpec(), SelectOptions(sweep="out")], ids=["grid", "select"]
)
def test_every_option_has_a_row_with_its_meaning(options: Any) -> None:
    rows = [line.split(" | ") for line in WRITTEN.splitlines() if line.startswith("| `--")]
    meanings = {row[0].removeprefix("| "): row[-1].removesuffix(" |") for row in rows}
    for name, default in option_fields(options):
        negative = "no-" if default is True else ""
        assert meanings[f"`--{negative}{name.rstrip('_').replace('_', '-')}`"].endswith(".")


def test_a_table_that_was_changed_by_hand_is_written_anew(page: Callable[[str], str]) -> None:
    assert page(WRITTEN.replace("| `--epochs` | an integer | `20` |", "| `--epochs` |")) == WRITTEN


def test_what_stands_above_the_tables_stays(page: Callable[[str], str]) -> None:
    assert page(f"Words of a person.\n{WRITTEN}").startswith("Words of a person.\n")


def test_a_page_without_the_line_is_refused(page: Callable[[str], str]) -> None:
    with pytest.raises(SystemExit, match="has no line"):
        page("# Options\n")
