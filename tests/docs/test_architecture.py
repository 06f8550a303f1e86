"""The picture of the rooms is that of the import contracts."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
LINTER = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]


@pytest.mark.parametrize("package", ["sweeps", "trainables"])
def test_the_picture_has_the_layers_of_the_contract(package):
    (layers,) = (
        contract["layers"]
        for contract in LINTER["contracts"]
        if contract["type"] == "layers" and contract["containers"] == [package]
    )
    # A node of the picture: s1["<b>report</b>: HTML, figures, card"].
    rooms = re.findall(rf'\b{package[0]}\d+\["<b>([\w, ]+)</b>', PAGE)
    assert rooms == [layer.replace(" | ", ", ") for layer in layers]
