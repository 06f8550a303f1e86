"""Write the notebook docs/tutorial.ipynb from the page docs/tutorial.md.

    python docs/write_tutorial.py            writes the notebook
    python docs/write_tutorial.py --check    exits with 1 where that would change the file

What is in bash and Python on the page becomes cells of code, all else cells of text. A line of bash
that ends with ``&`` is a server, which a cell of its own starts. The lines for a terminal that set
it up ("console") give way to a cell that does the same for a notebook.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("tutorial.md")
NOTEBOOK = PAGE.with_suffix(".ipynb")
FENCED = re.compile(r"^```(\w+)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
SET_UP = """\
# The commands of this kernel's environment, in an empty folder
import os
import sys
import tempfile

os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
os.chdir(tempfile.mkdtemp())"""


@dataclass(frozen=True)
class Block:
    """A part of the page."""

    kind: str  # "markdown"; or of what is fenced its language: bash, python, text, console
    text: str


def blocks(page: str) -> Iterator[Block]:
    """Take the page apart, in its order."""
    end = 0
    for found in FENCED.finditer(page):
        yield Block("markdown", page[end : found.start()].strip())
        yield Block(found[1], found[2].rstrip())
        end = found.end()
    yield Block("markdown", page[end:].strip())


def notebook(page: str) -> str:
    """Make the notebook, in the format nbformat 4.5."""
    cells = [cell for block in blocks(page) for cell in _cells(block)]
    content = {
        "cells": [{"id": f"cell-{i}", **cell} for i, cell in enumerate(cells)],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1) + "\n"


def _cells(block: Block) -> Iterator[dict[str, Any]]:
    if block.kind == "bash":
        lines = block.text.splitlines()
        servers = [line for line in lines if line.endswith(" &")]
        yield from (_code(f"%%bash --bg\n{line.removesuffix(' &')}") for line in servers)
        if left := [line for line in lines if line not in servers]:
            yield _code("\n".join(["%%bash", *left]))
    elif block.kind in ("python", "console"):
        yield _code(SET_UP if block.kind == "console" else block.text)
    elif block.text:
        fenced = f"```text\n{block.text}\n```" if block.kind == "text" else block.text
        yield {"cell_type": "markdown", "metadata": {}, "source": fenced.splitlines(keepends=True)}


def _code(source: str) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": source.splitlines(keepends=True),
    }


def main() -> int:
    """Exit code: 1 where the file is to change and only a check is wanted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    fresh = notebook(PAGE.read_text(encoding="utf-8"))
    if check:
        return int(not NOTEBOOK.exists() or fresh != NOTEBOOK.read_text(encoding="utf-8"))
    NOTEBOOK.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
