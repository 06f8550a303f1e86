"""A sweep that is begun small and continued with more is that of the whole, to the last digit."""

from __future__ import annotations

import json
from pathlib import Path

from tests.end_to_end.sweeping import board, epochs_trained, model_files, runs_of, sweep

# Of sweeping.OPTIONS: one of two points, two of three arms, two of five learning rates.
SMALL = ("--train-res", "32", "--arms", "none", "fix", "--head-lr", "0.003", "0.03")


def test_in_steps_it_is_the_sweep_of_the_whole(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = sweep(data, out, *SMALL)
    assert first.returncode == 0, first.stdout + first.stderr
    small, trained = board(out), epochs_trained(out)

    refused = sweep(data, out, "--epochs", "3")
    assert refused.returncode == 2 and "--epochs was 2, now 3" in refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr

    done = sweep(data, out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "extends  the sweep in" in done.stdout
    assert "reused   trunks: 2 of 4 are there, 2 to train" in done.stdout
    assert board(out) == board(undisturbed) != small
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
