"""The command line that trains one trunk alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainables import train
from trainables.errors import SweepError
from trainables.training.preemption import PreemptionGuard


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Run the command line in a folder with data/ in it; gives the exit code."""
    monkeypatch.setattr(PreemptionGuard, "install", lambda _: None)  # pytest keeps its handlers
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()

    def main(*options: str) -> int | str | None:
        given = ["train", "--data", "data", "--store", "store", "--cache", "cache", *options]
        monkeypatch.setattr("sys.argv", given)
        try:
            train.main()
        except SystemExit as end:
            return end.code
        return 0

    return main


def write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for i in range(8):
            pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def test_a_trunk_is_trained_scored_and_not_trained_again(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "data")
    options = ["--variant", "lite0", "--weights", "none", "--train-res", "32", "--test-res", "32"]
    options += ["48", "--epochs", "1", "--batch-size", "4", "--threads", "1"]
    assert run(*options) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch 1: loss ")
    assert [line.partition(":")[0] for line in rest[:2]] == [
        "val top-1 at 32 px",
        "val top-1 at 48 px",
    ]
    assert all(line.endswith("(n=2)") for line in rest[:2])
    trunk = Path(rest[2].removeprefix("trunk: "))
    assert (trunk / "trunk.safetensors").exists() and (trunk / "result.json").exists()
    assert run(*options) == 0
    assert capsys.readouterr().out.splitlines() == rest


@pytest.mark.parametrize("how", [("--sampling", "balanced"), ("--class-weights", "sqrt")])
def test_classes_are_balanced_where_it_is_asked_for(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: tuple[str, str]
) -> None:
    write_images(tmp_path / "data")
    options = ["--variant", "lite0", "--weights", "none", "--train-res", "32", "--test-res", "32"]
    assert run(*options, "--epochs", "1", "--batch-size", "4", *how) == 0
    trunk = Path(capsys.readouterr().out.splitlines()[-1].removeprefix("trunk: "))
    recipe = json.loads((trunk / "spec.json").read_text())["recipe"]
    assert recipe[how[0].removeprefix("--").replace("-", "_")] == how[1]


def bad_input(options: tuple[str, ...], message: str) -> Any:
    return pytest.param(options, message, id=options[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        bad_input(
            ("--variant", "nonsense"),
            "--variant nonsense is not an EfficientNet this sweep knows: choose from b0, ",
        ),
        bad_input(
            ("--cache", "data/cache"),
            "The cache folder {folder}/data/cache lies in data: choose another --cache.\n",
        ),
        bad_input(
            ("--weights", "gone"),
            "--weights gone is no folder: give auto, none or a folder of weights.\n",
        ),
        bad_input(("--data", "nowhere://bucket/x"), "nowhere://bucket/x is in no store"),
        bad_input(
            ("--sampling", "balanced", "--class-weights", "sqrt"),
            "--sampling balanced and --class-weights sqrt would count rare classes twice: ",
        ),
    ],
)
def test_bad_input_ends_with_2_and_the_options_of_this_command_line(
    run: Any,
    tmp_path: Path,
    options: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_images(tmp_path / "data")
    assert run(*options) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {message.format(folder=tmp_path)}")
    assert "`" not in said and said.count("\n") == 1


def test_what_has_no_option_is_named_in_plain_words(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "data")
    (tmp_path / "data" / "cat" / "9.png").write_bytes(b"no image")
    assert run() == 2
    assert capsys.readouterr().err.endswith(
        ": mend or remove them, or raise the tolerated share.\n"
    )


def test_another_failure_ends_with_1_and_one_sentence(
    run: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def prepare(*_: object) -> None:
        raise SweepError("Memory runs out: train at a lower `train_res`.")

    monkeypatch.setattr("trainables.train.prepare", prepare)
    assert run() == 1
    assert capsys.readouterr().err == "failed: Memory runs out: train at a lower --train-res.\n"
