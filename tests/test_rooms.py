"""The rooms of both packages: small, said in a sentence, and under names of their own."""

from __future__ import annotations

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sweeps", "trainables")
MAX_MODULES = 14
ROOMS = sorted(
    path.parent.relative_to(ROOT) for name in PACKAGES for path in (ROOT / name).rglob("*.py")
)
ROOMS = list(dict.fromkeys(ROOMS))


@pytest.mark.parametrize("room", ROOMS, ids=str)
def test_a_room_holds_no_more_modules_than_a_glance_takes_in(room: Path) -> None:
    modules = [path for path in (ROOT / room).glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MAX_MODULES


@pytest.mark.parametrize("room", ROOMS, ids=str)
def test_a_room_says_in_one_sentence_what_it_is_for(room: Path) -> None:
    tree = ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8"))
    purpose = ast.get_docstring(tree)
    sentence = (purpose or "").partition("\n\n")[0]
    assert sentence.endswith(".") and ". " not in sentence
    if room != Path("sweeps"):  # which has the interface for Python
        assert purpose == sentence and len(tree.body) == 1, "a room re-exports nothing"


def test_no_name_in_sweeps_hides_an_installed_package() -> None:
    """A script of this folder has it first on its path."""
    paths = [path for path in (ROOT / "sweeps").iterdir() if path.is_dir() or path.suffix == ".py"]
    own = {path.stem for path in paths if not path.name.startswith("_")}
    installed = set(packages_distributions()) - set(PACKAGES)
    assert not own & (set(sys.stdlib_module_names) | installed)


@pytest.mark.parametrize("package", PACKAGES)
def test_tests_lie_in_the_rooms_of_what_they_test(package: str) -> None:
    rooms = {path.name for path in (ROOT / package).iterdir() if path.is_dir()}
    folders = {path.name for path in (ROOT / "tests" / package).iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} <= rooms
