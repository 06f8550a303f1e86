"""One image set and one sweep that nothing disturbed, for all end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.sweeping import draw_shapes, sweep


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_shapes(tmp_path_factory.mktemp("shapes") / "data")


@pytest.fixture(scope="session")
def undisturbed(data: Path) -> Path:
    """The folder of the sweep of ``sweeping.OPTIONS``, done."""
    out = data.parent / "undisturbed"
    done = sweep(data, out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return out
