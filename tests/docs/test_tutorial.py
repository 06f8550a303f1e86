"""The tutorial's commands run as they stand, print what it shows, and are those of the notebook."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_ports
from tests.waiting import HANG_S, wait_until

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGE = (DOCS / "tutorial.md").read_text(encoding="utf-8")
PORTS = ("5000", "5001")  # of the two servers
NUMBER = re.compile(r"\d[\d.,]*")
NEXT = "--- the next block of the tutorial ---"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """What makes the notebook."""
    return runpy.run_path(str(DOCS / "write_tutorial.py"))


def is_shown(line: str, printed: str) -> bool:
    """Whether a line of the page is one of those that were printed, but for its numbers.

    Three dots stand for anything.
    """
    pattern = re.escape(as_shown(line)).replace(re.escape("..."), ".*")
    return any(re.fullmatch(pattern, as_shown(found)) for found in printed.splitlines())


def as_shown(line: str) -> str:
    """A line without what differs from machine to machine: numbers and widths of columns."""
    # Dots that stand for anything are kept from the numbers before them.
    parts = (NUMBER.sub("#", part) for part in line.split("..."))
    return " ".join("...".join(parts).split())


def commands(page_blocks: Iterator[Any]) -> list[tuple[str, list[str]]]:
    """What is run, in bash, and the lines that the page then shows."""
    found: list[tuple[str, list[str]]] = []
    for block in page_blocks:
        if block.kind == "bash":
            found.append((block.text, []))
        elif block.kind == "python":
            found.append((f"python - <<'PYTHON'\n{block.text}\nPYTHON", []))
        elif block.kind == "text":
            found[-1][1].extend(block.text.splitlines())
    return found


def run(lines: list[str], folder: Path, ui: str) -> str:
    """Run commands in one shell, in an empty folder; return what they print.

    Args:
        ui: the address at which a server is to answer in the end.
    """
    own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | own
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment |= {"PYTHONPATH": str(ROOT), "BROWSER": "echo %s", "COLUMNS": "100"}
    printed, said = folder / "printed.txt", folder / "said.txt"
    (folder / "empty").mkdir()
    with printed.open("w") as out, said.open("w") as err:
        shell = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", "\n".join([*lines, f"curl --silent {ui}"])],
            cwd=folder / "empty",
            env=environment,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            assert shell.wait(timeout=HANG_S) == 0, said.read_text()[-2000:]
            wait_until(lambda: answers(ui), what="the answer of MLflow's UI")
        finally:
            os.killpg(shell.pid, signal.SIGTERM)  # the servers
    return printed.read_text()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tutorial asks a server by curl")
def test_the_commands_run_and_print_what_the_page_shows(
    script: dict[str, Any], tmp_path: Path
) -> None:
    ports = dict(zip(PORTS, map(str, free_ports(2)), strict=True))
    steps = commands(script["blocks"](PAGE))
    assert len(steps) == 11
    lines = [re.sub("|".join(PORTS), lambda found: ports[found[0]], text) for text, _ in steps]
    printed = run(
        [part for line in lines for part in (f"echo '{NEXT}'", line)],
        tmp_path,
        f"http://127.0.0.1:{ports[PORTS[0]]}/health",
    )
    for (text, shown), found in zip(steps, printed.split(NEXT)[1:], strict=True):
        missing = [line for line in shown if not is_shown(line, found)]
        assert not missing, f"{text}\nprints\n{found}"


def test_numbers_may_differ_from_those_shown_and_words_may_not() -> None:
    printed = "epoch 2, val top-1 24.0 %\nnothing   left"
    assert is_shown("epoch 12, val top-1 31 %", printed) and is_shown("nothing left", printed)
    assert is_shown("epoch 2, ...", printed) and is_shown("epoch 2...", printed)
    assert not is_shown("epoch 2", printed) and not is_shown("val top-1 24.0 %", printed)
    assert not is_shown("epoch two, ...", printed)


def test_the_notebook_is_fresh(script: dict[str, Any]) -> None:
    written = (DOCS / "tutorial.ipynb").read_text(encoding="utf-8")
    assert script["notebook"](PAGE) == written, "docs/tutorial.ipynb is stale: run make docs"


def test_the_notebook_has_all_of_the_page_in_its_order(script: dict[str, Any]) -> None:
    cells = json.loads(script["notebook"](PAGE))["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    texts = ["".join(cell["source"]) for cell in cells]
    run_by_cells = "\n".join(
        text.partition("\n")[2] if text.startswith("%%bash") else text
        for cell, text in zip(cells, texts, strict=True)
        if cell["cell_type"] == "code" and text != script["SET_UP"]
    )
    blocks = list(script["blocks"](PAGE))
    run_by_page = "\n".join(block.text for block in blocks if block.kind in ("bash", "python"))
    assert run_by_cells == re.sub(" &$", "", run_by_page, flags=re.MULTILINE)
    prose = [block.text for block in blocks if block.kind == "markdown"]
    assert [text for text in texts if text in prose] == [text for text in prose if text]


def test_a_server_has_a_cell_of_its_own(script: dict[str, Any]) -> None:
    page = "Serve it:\n\n```bash\nserve --port 1 &\ncurl \\\n    there\n```\n"
    cells = json.loads(script["notebook"](page))["cells"]
    assert ["".join(cell["source"]) for cell in cells] == [
        "Serve it:",
        "%%bash --bg\nserve --port 1",
        "%%bash\ncurl \\\n    there",
    ]


@pytest.mark.parametrize("name", sorted(path.name for path in DOCS.glob("tutorial*.png")))
def test_its_pictures_are_small(name: str) -> None:
    assert f"]({name})" in PAGE
    assert (DOCS / name).stat().st_size <= 60_000
