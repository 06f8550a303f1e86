"""Node and the npm packages that some tests run; CONTRIBUTING.md says how they get there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

NODE = shutil.which("node")
PACKAGES = Path(__file__).resolve().parents[1] / "node_modules"

needs_node = pytest.mark.skipif(NODE is None, reason="Node is not installed")


def needs_packages(*names: str) -> pytest.MarkDecorator:
    """Skip a test where one of the npm packages is not in node_modules of the checkout."""
    lacks = [name for name in names if not (PACKAGES / name / "package.json").is_file()]
    return pytest.mark.skipif(
        bool(lacks), reason=f"npm packages that are not in node_modules: {', '.join(lacks)}"
    )
