"""One image set and one sweep that nothing disturbed, for all end-to-end tests and processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from tests.end_to_end.lookups import watched
from tests.end_to_end.sweeping import SECRETS, command, draw_shapes, run_command


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all processes that run tests side by side, which outlives each of them."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / "shapes"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def data(shared: Path) -> Path:
    with FileLock(shared / ".data.lock"):
        if not (shared / "data").exists():
            draw_shapes(shared / "data")
    return shared / "data"


@pytest.fixture(scope="session")
def undisturbed(data: Path) -> Path:
    """The folder of the sweep of ``sweeping.OPTIONS``, done.

    What it printed is beside it in ``said``, and what its processes sent, where it can be watched,
    in ``sent``. There were secrets in its environment.
    """
    out = data.parent / "undisturbed"
    said = data.parent / "said"
    with FileLock(data.parent / ".undisturbed.lock"):
        if not said.exists():
            done = run_command(watched(command(data, out), data.parent / "sent"), SECRETS)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "Traceback" not in done.stdout + done.stderr
            said.write_text(done.stdout + done.stderr)
    return out
