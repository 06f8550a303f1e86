"""The command that classifies says what the model says in MLflow, with ONNX Runtime alone."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeps import predict
from sweeps.predict import main
from tests.sweeps.final_model.image_tables import file_of, noise, table

ROOT = Path(__file__).resolve().parents[3]
NEEDED = {"numpy", "onnxruntime", "pandas", "pillow", "pyyaml"}
MODULES = {"nvidia-ml-py": "pynvml", "scikit-learn": "sklearn"}  # which are called otherwise
ALONE = """
import sys
for name in sys.argv.pop(1).split():
    sys.modules[name] = None  # importing it is an ImportError
from sweeps.predict import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def photos(tmp_path: Path) -> dict[Path, bytes]:
    """Images in two folders, and what is none beside them."""
    root = tmp_path / "photos"
    (root / "b" / ".trash").mkdir(parents=True)
    files = {
        root / "b" / "one.jpg": file_of(noise(90, 70, seed=1), "JPEG"),
        root / "b" / "two.PNG": file_of(noise(64, 200, seed=2)),
        root / "three, with a comma.png": file_of(noise(120, 80, seed=3)),
    }
    for path, content in files.items():
        path.write_bytes(content)
    (root / "notes.txt").write_text("no image")
    (root / "b" / ".trash" / "four.png").write_bytes(file_of(noise(50, 50)))
    return files


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


@pytest.mark.parametrize("batch", [2, 32])
def test_each_image_has_the_models_classes(
    folder: Path,
    model: Any,
    photos: dict[Path, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    batch: int,
) -> None:
    monkeypatch.setattr(predict, "BATCH", batch)
    labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    first = next(iter(photos))
    assert main([str(folder), str(first.parents[1]), str(first), "--top-k", "2"]) == 0
    found = lines(capsys)
    assert [line["image"] for line in found] == [*map(str, sorted(photos)), str(first)]
    for line in found:
        probabilities = model.predict(table(photos[Path(line["image"])]))["probabilities"][0]
        best = np.argsort(probabilities)[::-1][:2]
        assert [line["label1"], line["label2"]] == [labels[i] for i in best]
        said = [float(line[f"probability{k}"]) for k in (1, 2)]
        assert said == pytest.approx(np.array(probabilities)[best], abs=1e-5)


def test_one_class_has_no_number(
    folder: Path, photos: dict[Path, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), str(next(iter(photos)))]) == 0
    assert [list(line) for line in lines(capsys)] == [["image", "label", "probability"]]


def test_what_cannot_be_read_is_named_and_the_others_are_classified(
    folder: Path, photos: dict[Path, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    bad, *good = photos
    bad.write_bytes(b"no image")
    assert main([str(folder), *map(str, photos)]) == 3
    said = capsys.readouterr()
    assert f"{bad} cannot be read: not an image of a known format" in said.err
    assert "incomplete: 1 of 3 images could not be read" in said.err
    assert [line["image"] for line in csv.DictReader(io.StringIO(said.out))] == [*map(str, good)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["nowhere", "photos"], "nowhere has no config.json: name the folder OUT/model"),
        (["MODEL", "nowhere"], "nowhere does not exist: name images or folders."),
        (["MODEL", "empty"], "empty has no image below it"),
        (["MODEL"], "no image is named: name image files or folders, or give --demo."),
        (["MODEL", "photos", "--top-k", "0"], "--top-k 0 is out of bounds: the model has"),
        (["MODEL", "photos", "--top-k", "99"], "--top-k 99 is out of bounds: the model has"),
    ],
)
def test_bad_input_is_one_sentence(
    folder: Path,
    photos: dict[Path, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main([str(folder) if word == "MODEL" else word for word in given]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and words in said.err and said.err.count("\n") == 1
    assert said.out == ""


def test_onnx_runtime_is_all_it_takes(
    folder: Path, photos: dict[Path, bytes], tmp_path: Path
) -> None:
    """Without any other package of this project but those that read images, tables and YAML."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {entry.partition(">")[0].partition("[")[0] for entry in project["dependencies"]}
    blocked = {MODULES.get(name, name) for name in wanted - NEEDED}
    assert {"torch", "timm", "ray", "mlflow", "pyarrow", "tyro"} <= blocked
    done = subprocess.run(
        [sys.executable, "-c", ALONE, " ".join(blocked), str(folder), *map(str, photos)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1 + len(photos)
