"""What the end-to-end tests share: a tiny image set, and the command as a user gives it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from tests.waiting import HANG_S
from trainables.storage.fenced_log import is_opening
from trainables.storage.files import read_lines
from trainables.storage.object_store import RemotePath

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "sweeps/fixres_grid.py"
SHAPES = ("cross", "disc", "ring", "square")
ARMS = ("none", "fix", "fix_aug")  # one for each kind of pass
# Two trunks a point, three of which are cut or not at the rung; eight cells of two crops, and four
# of the untouched net.
OPTIONS = (
    *("--variants", "lite0", "--train-res", "32", "48", "--test-res", "32", "64"),
    *("--epochs", "2", "--grace-epochs", "1", "--reduction", "2", "--samples", "2"),
    *("--batch-size", "16", "--head-epochs", "3", "--concurrency", "1", "--views", "1"),
    *("--cpus-per-trial", "1", "--latency-runtime", "torch", "--arms", *ARMS),
)
# What is the same sweep, to the last digit.
ANOTHER_ORDER = ("--train-res", "48", "32", "--test-res", "64", "32")

# Variables of a user's environment that no file of a sweep may hold.
SECRETS = {
    "HF_TOKEN": "hf_0123planted",
    "AWS_SECRET_ACCESS_KEY": "aws/0123planted",
    "MLFLOW_TRACKING_PASSWORD": "mlflow-0123planted",
}
PLANTED = "0123planted"


def draw_shapes(folder: Path, each: int = 36) -> Path:
    """``each`` small pictures of every shape, on noise."""
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        (folder / shape).mkdir(parents=True)
        for i in range(each):
            noise = rng.integers(0, 200, (72, 88, 3), dtype=np.uint8)
            picture = Image.fromarray(noise)
            x, y, r = (int(rng.integers(*span)) for span in ((24, 60), (24, 48), (7, 15)))
            colour = tuple(int(c) for c in rng.integers(60, 256, 3))
            _draw(ImageDraw.Draw(picture), shape, (x - r, y - r, x + r, y + r), colour)
            picture.save(folder / shape / f"{i:03d}.png")
    return folder


def _draw(pen: Any, shape: str, box: tuple[int, ...], colour: tuple[int, ...]) -> None:
    left, top, right, bottom = box
    middle_x, middle_y = (left + right) // 2, (top + bottom) // 2
    match shape:
        case "disc":
            pen.ellipse((left, top, right, bottom), fill=colour)
        case "ring":
            pen.ellipse((left, top, right, bottom), outline=colour, width=4)
        case "square":
            pen.rectangle((left, top, right, bottom), fill=colour)
        case "cross":
            pen.line((left, middle_y, right, middle_y), fill=colour, width=6)
            pen.line((middle_x, top, middle_x, bottom), fill=colour, width=6)


def command(data: Path, out: Path, *more: str) -> list[str]:
    cache = ("--cache-dir", str(data.parent / "cache"))
    options = ("--data", str(data), "--out", str(out), *cache, *OPTIONS, *more)
    return [sys.executable, SCRIPT, *options]


def environment() -> dict[str, str]:
    """A user's environment without what would lead a sweep elsewhere."""
    unwanted = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID")
    return {k: v for k, v in os.environ.items() if k not in unwanted}


def sweep(data: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run_command(command(data, out, *more))


def run_command(
    argv: list[str], variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with further variables of the environment."""
    return subprocess.run(
        argv,
        cwd=ROOT,
        env=environment() | dict(variables or {}),
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )


def files_with(secret: str, *folders: Path) -> list[Path]:
    """Find the files below the folders that hold the word."""
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 50, "there is little to search"
    return [path for path in files if secret.encode() in path.read_bytes()]


def board(out: Path) -> list[dict[str, Any]]:
    """The leaderboard without what a clock measured."""
    rows: list[dict[str, Any]] = pq.read_table(out / "leaderboard.parquet").to_pylist()
    clocked = ("seconds", "latency_ms", "images_s")
    return [{k: v for k, v in row.items() if k not in clocked} for row in rows]


def epochs_trained(out: Path) -> dict[str, Counter[int]]:
    """How often each epoch of each trunk was really trained."""
    counts = {}
    for path in sorted((out / "store" / "trunks").glob("*/work.jsonl")):
        lines = path.read_text().splitlines()
        counts[path.parent.name] = Counter(json.loads(line)["epoch"] for line in lines)
    return counts


def model_files(out: Path) -> dict[str, bytes]:
    """The files of the model, without what a clock measured: the card's lines on latency."""
    folder = out / "model"
    files = [p for p in folder.rglob("*") if p.is_file()]
    found = {str(p.relative_to(folder)): p.read_bytes() for p in files}
    card = found["README.md"].splitlines(keepends=True)
    clocked = [line for line in card if line.startswith(b"- Latency")]
    assert len(clocked) == 2
    return found | {"README.md": b"".join(line for line in card if line not in clocked)}


def runs_of(out: Path) -> list[Any]:
    """All runs in the sweep's own MLflow store."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{out}/mlflow.db")
    experiments = [e.experiment_id for e in client.search_experiments()]
    return list(client.search_runs(experiments, max_results=1000))


def decisions(store: Path) -> list[dict[str, Any]]:
    """What a journal holds, be it a file or, as in object stores, a file for each line.

    Left out is which drivers wrote it.
    """
    path = store / "journal.jsonl"
    place = path if path.exists() else RemotePath(root="file:///", key=str(path).strip("/"))
    lines = [line for line in read_lines(place) if not is_opening(line)]
    return [{name: v for name, v in line.items() if name != "writer"} for line in lines]
