"""A sweep that is begun small and continued with more is that of the whole, to the last digit.

Images to test it on may come then, too.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.end_to_end.sweeping import (
    SHAPES,
    board,
    epochs_trained,
    model_files,
    runs_of,
    sweep,
)

pytestmark = pytest.mark.slow

# Of sweeping.OPTIONS: one of two points, two of three arms, two of five learning rates.
SMALL = ("--train-res", "32", "--arms", "none", "fix", "--head-lr", "0.003", "0.03")


def darkened(data: Path, folder: Path) -> Path:
    """Make a set of two of the four classes, eight pictures of each."""
    for shape in SHAPES[1:3]:
        (folder / shape).mkdir(parents=True)
        for path in sorted((data / shape).iterdir())[:8]:
            Image.open(path).point(lambda value: value // 2).save(folder / shape / path.name)
    return folder


def test_in_steps_it_is_the_sweep_of_the_whole(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out, odd = tmp_path / "out", darkened(data, tmp_path / "odd")
    first = sweep(data, out, *SMALL)
    assert first.returncode == 0, first.stdout + first.stderr
    small, trained = board(out), epochs_trained(out)

    more = ("--also-test", f"odd={odd}")
    done = sweep(data, out, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "extends  the sweep in" in done.stdout
    assert "reused   trunks: 2 of 4 are there, 2 to train" in done.stdout
    assert "odd      top-1" in done.stdout and "(n=16," in done.stdout
    whole = board(undisturbed)
    assert [row for row in board(out) if row["split"] != "odd"] == whole != small
    choice, wanted = (json.loads((f / "choice.json").read_text()) for f in (out, undisturbed))
    for name in ("cell", "arm"):
        assert choice["chosen"][name] == wanted["chosen"][name]
    splits = [row["split"] for row in choice["unseen"]]
    assert splits.count("odd") == splits.count("test") >= 1
    assert "| odd |" in (out / "model" / "README.md").read_text()
    counts = epochs_trained(out)
    assert trained.items() < counts.items()  # none of those again
    assert {n for epochs in counts.values() for n in epochs.values()} == {1}
    weights = "model.safetensors"
    assert model_files(out)[weights] == model_files(undisturbed)[weights]

    parent = next(run for run in runs_of(out) if run.data.tags["role"] == "sweep")
    assert (parent.data.params["train_res"], parent.data.tags["train_res"]) == ("32", "32 48")
    cells = [run for run in runs_of(out) if run.data.tags["role"] == "cell"]
    keys = {row["cell"] for row in board(out) if row["split"] == "val"}
    assert {run.data.tags["key"] for run in cells} == {f"cell {key}" for key in keys}
    record = json.loads((out / "spec.json").read_text())
    assert "0.003" in record["command"] and len(record["extensions"]) == 1
