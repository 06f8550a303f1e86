"""Node and the npm packages that some tests run; CONTRIBUTING.md says how they get there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

NODE = shutil.which("node")
ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ROOT / "node_modules"

needs_node = pytest.mark.skipif(NODE is None, reason="Node is not installed")


def needs_packages(*names: str) -> pytest.MarkDecorator:
    """Skip a test where node_modules of the checkout lacks one of the npm packages."""
    lacking = lacking_packages(names, ROOT)
    return pytest.mark.skipif(
        bool(lacking), reason=f"npm packages that are not in node_modules: {', '.join(lacking)}"
    )


def lacking_packages(names: Sequence[str], checkout: Path) -> list[str]:
    """The npm packages that a checkout lacks at the versions of its package.json, in words."""
    wanted = json.loads((checkout / "package.json").read_text())["devDependencies"]
    lacking = []
    for name in names:
        found = _version(checkout / "node_modules" / name / "package.json")
        if found != wanted[name]:
            other = f" (there is {found})" if found else ""
            lacking.append(f"{name} {wanted[name]}{other}")
    return lacking


def _version(package: Path) -> str | None:
    """The version that a package.json tells; None: it is not there, or was cut off."""
    try:
        return str(json.loads(package.read_text())["version"])
    except (OSError, ValueError, KeyError):
        return None
