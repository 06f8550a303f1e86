"""The MLflow form of the model's folder: the same bytes for the same model, run anywhere."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import infer_and_parse_data

from sweeps.final_model.mlflow_flavor import write_mlflow_model
from tests.sweeps.final_model.image_tables import file_of, logits, noise, table

# Python runs this first: neither PyTorch, timm nor this package, not even installed for editing.
WITHOUT_US = """
import sys
from pathlib import Path
sys.modules |= dict.fromkeys(("torch", "torchvision", "timm", "sweeps", "safetensors"))
sys.path[:] = [p for p in sys.path if not (Path(p or ".") / "trainables").is_dir()]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in str(getattr(f, "__module__", f))]
"""


def test_whichever_way_an_image_comes_it_is_the_same(model: Any) -> None:
    pixels = noise(70, 110)
    file = file_of(pixels)
    text = base64.b64encode(file).decode()
    frames = [
        table(file),
        table(pixels),
        table(text),
        table(pixels.tolist()),
        table(pixels.astype(np.int64)),
        {"image": [file]},
        {"image": pixels[None]},
    ]
    requests = [
        {"dataframe_split": {"columns": ["image"], "data": [[text]]}},
        {"dataframe_records": [{"image": text}]},
        {"dataframe_records": [{"image": pixels.tolist()}]},
        {"inputs": {"image": [text]}},
        {"inputs": [text]},
        {"instances": [{"image": text}]},
    ]
    schema = model.metadata.get_input_schema()
    parsed = [infer_and_parse_data(json.loads(json.dumps(body)), schema) for body in requests]
    predicted = [model.predict(data) for data in [*frames, *parsed]]
    for one in predicted[1:]:
        pd.testing.assert_frame_equal(one, predicted[0])


def test_a_request_of_many_images_as_a_plain_list(model: Any) -> None:
    files = [file_of(noise(64, 64, seed=i)) for i in range(3)]
    body = {"inputs": [base64.b64encode(file).decode() for file in files]}
    data = infer_and_parse_data(body, model.metadata.get_input_schema())
    pd.testing.assert_frame_equal(model.predict(data), model.predict(table(*files)))


def test_another_column_is_refused(model: Any) -> None:
    with pytest.raises(MlflowException, match="image"):
        model.predict(pd.DataFrame({"picture": [b""]}))


def test_the_same_folder_gives_the_same_bytes_and_nothing_is_kept_twice(
    folder: Path, tmp_path: Path
) -> None:
    given = ("model.safetensors", "config.json", "labels.txt", "model.onnx")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for file in given:
            shutil.copy(folder / file, tmp_path / name)
        write_mlflow_model(tmp_path / name, example=file_of(noise(24, 24), "JPEG"))
    write_mlflow_model(tmp_path / "b", example=file_of(noise(24, 24), "JPEG"))  # again
    a, b = (
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (tmp_path / "a", tmp_path / "b")
    )
    assert a == b
    added = {path: content for path, content in a.items() if path.name not in given}
    assert sum(map(len, added.values())) < 40_000
    assert str(tmp_path).encode() not in b"".join(added.values())
    for file in given:
        assert a[Path(file)] == (folder / file).read_bytes()


def test_the_example_and_the_environment_are_mlflows(folder: Path, model: Any) -> None:
    assert isinstance(model.input_example, pd.DataFrame)
    expected = model.predict(table(file_of(noise(24, 24), "JPEG")))
    pd.testing.assert_frame_equal(model.predict(model.input_example), expected)
    pins = Path(mlflow.pyfunc.get_model_dependencies(str(folder))).read_text(encoding="utf-8")
    assert {pin.partition("==")[0] for pin in pins.split()} == {
        "mlflow", "numpy", "onnxruntime", "pandas", "pillow"
    }  # fmt: skip
    outputs = model.metadata.get_output_schema()
    assert outputs.input_names() == list(expected.columns)


@pytest.mark.slow
def test_the_command_line_runs_it_where_there_is_nothing_of_ours(
    folder: Path, model: Any, tmp_path: Path
) -> None:
    files = [file_of(noise(64, 90, seed=i), "JPEG") for i in range(2)]
    data = [[base64.b64encode(file).decode()] for file in files]
    body = {"dataframe_split": {"columns": ["image"], "data": data}}
    (tmp_path / "request.json").write_text(json.dumps(body))
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sitecustomize.py").write_text(WITHOUT_US)
    command = ["-m", "mlflow", "models", "predict", "-m", str(folder), "--env-manager", "local"]
    subprocess.run(
        [sys.executable, *command, "-t", "json", "-i", str(tmp_path / "request.json"),
         "-o", str(tmp_path / "answer.json")],
        cwd="/", check=True, capture_output=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "first")},
    )  # fmt: skip
    answer = json.loads((tmp_path / "answer.json").read_text())["predictions"]
    predicted, expected = pd.DataFrame(answer), model.predict(table(*files))
    assert predicted["label"].to_list() == expected["label"].to_list()
    np.testing.assert_allclose(logits(predicted), logits(expected), atol=1e-5)
