"""Compare two finished sweeps: did a change of the code that should change nothing change nothing?

    git worktree add ../before HEAD~1
    (cd ../before && python sweeps/fixres_grid.py --concurrency 1 --out /tmp/a)
    python sweeps/fixres_grid.py --concurrency 1 --out /tmp/b
    python benchmarks/same_result.py /tmp/a /tmp/b

Compares the leaderboard without what a clock measured, the choice, the keys in the store, the bytes
of every trunk, and every file of the model: byte for byte, but for Python files (the same syntax
tree, import paths, comments and docstrings aside) and the model card (import paths and latencies
aside). Prints
a line for each; exits with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

CLOCKED = ("seconds", "latency_ms", "images_s")
CHOICE = (
    *("chosen", "reason", "optimism", "val", "test_top1", "unseen"),
    *("gains", "gains_on_untouched", "refit"),
)
PACKAGES = re.compile(r"\b(trainables|sweeps)(\.\w+)+")


class Finding(NamedTuple):
    """One thing that was compared."""

    what: str
    same: bool
    note: str


def compare(a: Path, b: Path) -> Iterator[Finding]:
    """Compare the sweeps in two folders, the most important things first."""
    yield from _compare_leaderboards(a, b)
    yield _compare_values("choice.json", _choice(a), _choice(b))
    for kind, file in (("trunks", "trunk.safetensors"), ("cells", "rows.json")):
        keys = [{p.parent.name for p in (s / "store" / kind).glob(f"*/{file}")} for s in (a, b)]
        yield _compare_values(f"keys of {kind}", *map(sorted, keys))
    for key in sorted(p.parent.name for p in (a / "store/trunks").glob("*/trunk.safetensors")):
        yield _compare_files(f"store/trunks/{key}/trunk.safetensors", a, b, _digest)
    files = {_moved(path.relative_to(s)) for s in (a, b) for path in _files(s / "model")}
    for name in sorted(files):
        yield _compare_model_file(name, a, b)


def _compare_leaderboards(a: Path, b: Path) -> Iterator[Finding]:
    boards = [_board(a), _board(b)]
    columns = [sorted(rows[0]) if rows else [] for rows in boards]
    yield _compare_values("columns of the leaderboard", *columns)
    shared = set(columns[0]) & set(columns[1])
    first, second = ([{k: row[k] for k in shared} for row in rows] for rows in boards)
    differing = sum(x != y for x, y in zip(first, second, strict=False))
    differing += abs(len(first) - len(second))
    note = f"{len(first)} and {len(second)} rows, {differing} differ"
    yield Finding("leaderboard.parquet, clocks aside", not differing, note)


def _board(sweep: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(sweep / "leaderboard.parquet").to_pylist()
    return [{k: v for k, v in row.items() if k not in CLOCKED} for row in rows]


def _choice(sweep: Path) -> dict[str, Any]:
    choice = json.loads((sweep / "choice.json").read_text(encoding="utf-8"))
    compared = {name: choice.get(name) for name in CHOICE}  # what came later is missing before
    compared["chosen"] = {k: v for k, v in compared["chosen"].items() if k not in CLOCKED}
    return compared


def _compare_values(what: str, first: Any, second: Any) -> Finding:
    return Finding(what, first == second, "" if first == second else f"{first} != {second}")


def _files(folder: Path) -> Iterator[Path]:
    return (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def _moved(path: Path) -> str:
    """Return the name of a model file; below code/ without its folders, which may be renamed."""
    return f"model/code/**/{path.name}" if "code" in path.parts else str(path)


def _compare_model_file(name: str, a: Path, b: Path) -> Finding:
    if name.endswith(".py"):
        return _compare_files(name, a, b, _syntax)
    if name.endswith(".md"):
        return _compare_files(name, a, b, _card)
    return _compare_files(name, a, b, _digest)


def _compare_files(name: str, a: Path, b: Path, reading: Callable[[Path], str]) -> Finding:
    paths = [next(sweep.glob(name), None) for sweep in (a, b)]
    missing = [str(s) for s, path in zip((a, b), paths, strict=True) if path is None]
    if missing:
        return Finding(name, False, f"is not in {' and '.join(missing)}")
    first, second = (reading(path) for path in paths if path is not None)
    return Finding(name, first == second, first[:16] if reading is _digest else "")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _card(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return PACKAGES.sub(r"\1", "\n".join(ln for ln in lines if not ln.startswith("- Latency")))


def _syntax(path: Path) -> str:
    """Dump a Python file's syntax tree without import paths, comments and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            node.module = PACKAGES.sub(r"\1", node.module)
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_text(body[0]):
            del body[0]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    constant = node.value if isinstance(node, ast.Expr) else None
    return isinstance(constant, ast.Constant) and isinstance(constant.value, str)


def main() -> int:
    """Compare and print; return the exit code: 0 the same, 1 not."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", type=Path, help="a finished sweep's folder")
    parser.add_argument("b", type=Path, help="another")
    args = parser.parse_args()
    findings = list(compare(args.a, args.b))
    for what, same, note in findings:
        print(f"{'same     ' if same else 'DIFFERENT'}  {what}{note and f'  ({note})'}")
    differing = sum(not finding.same for finding in findings)
    print(f"{len(findings)} compared, {differing} different")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
