"""Make the finished model's folder, which timm opens, an MLflow model too.

    MLmodel                      the flavor python_function, its signature and its input example
    code/                        the modules that run the model, without the rest of the project
    requirements.txt             the packages that those modules need; PyTorch is none of them
    python_env.yaml, conda.yaml  the same packages, for MLflow's environment managers
    input_example.json           an image; serving_input_example.json: the same as a request

The weights are not copied: ``code/`` reads config.json and model.onnx, which lie beside it.

The signature names one column, "image", of any type, and the model checks its input itself: MLflow
has no union of bytes and arrays; the type binary makes the server decode base64, which refuses
arrays in JSON; a typed array is checked value by value. Bare arrays and lists of bytes pass no
signature of columns, because MLflow makes a two-dimensional table of them: they have to come as
``{"image": [...]}`` or as a DataFrame. A model without a signature would accept them, but would not
describe its input.
"""

from __future__ import annotations

import base64
import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType, Array

from sweeps.final_model import pyfunc_model
from trainables.data import pixels, samples
from trainables.data.options import ReadOptions
from trainables.storage.files import write_json, write_text
from trainables.transforms import centre_crop

PACKAGES = ("mlflow", "numpy", "onnxruntime", "pandas", "pillow")
# MLflow requires a date; a fixed one keeps the bytes the same for the same folder.
EPOCH = "1970-01-01 00:00:00"
# Modules by their path in code/, from which they are imported. There, trainables is a folder
# without __init__.py: it never hides the whole package where that is installed.
CODE = {
    "pyfunc_model.py": pyfunc_model,
    "trainables/data/pixels.py": pixels,
    "trainables/data/samples.py": samples,
    "trainables/transforms/centre_crop.py": centre_crop,
}


def write_mlflow_model(
    folder: Path,
    *,
    example: bytes,
    cache_side: int = ReadOptions.cache_side,
    whites: Mapping[str, int] | None = None,
) -> None:
    """Add the files that make ``folder`` an MLflow model; the same folder gets the same bytes.

    Args:
        folder: holds config.json, model.safetensors and model.onnx.
        example: an image file, the model's input example; it should be small, as it is stored
            twice, in base64.
        cache_side: the shorter side (px) that larger images are reduced to before anything else, as
            in the sweep.
        whites: the value that is white by kind of image, where samples have more than eight bits.
    """
    for name, module in CODE.items():
        write_text(folder / "code" / name, Path(str(module.__file__)).read_text(encoding="utf-8"))
    _write_environment(folder)
    model = Model(
        utc_time_created=EPOCH,
        model_uuid=_digest(folder / "model.safetensors")[:32],
        signature=_signature(),
        saved_input_example_info=_write_example(folder, example),
    )
    mlflow.pyfunc.add_to_model(
        model,
        loader_module="pyfunc_model",
        code="code",
        conda_env="conda.yaml",
        python_env="python_env.yaml",
        model_config={"cache_side": cache_side} | ({"whites": dict(whites)} if whites else {}),
    )
    write_text(folder / "MLmodel", model.to_yaml())


def _signature() -> ModelSignature:
    any_type = AnyType()
    numbers = Array(DataType.double)
    return ModelSignature(
        inputs=Schema([ColSpec(any_type, "image")]),
        outputs=Schema(
            [
                ColSpec(DataType.string, "label"),
                ColSpec(DataType.double, "probability"),
                ColSpec(numbers, "probabilities"),
                ColSpec(numbers, "logits"),
            ]
        ),
    )


def _write_environment(folder: Path) -> None:
    """Write the pinned packages; MLflow requires conda.yaml even where conda is not used."""
    packages = (*PACKAGES, "pillow-heif") if pixels.reads_heic() else PACKAGES
    pins = [f"{name}=={version(name)}" for name in packages]
    python = platform.python_version()
    write_text(folder / "requirements.txt", "".join(f"{pin}\n" for pin in pins))
    environment = {
        "python": python,
        "build_dependencies": ["pip"],
        "dependencies": ["-r requirements.txt"],
    }
    conda = {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": pins}],
    }
    # Every JSON file is a YAML file too.
    write_json(folder / "python_env.yaml", environment)
    write_json(folder / "conda.yaml", conda)


def _write_example(folder: Path, example: bytes) -> dict[str, Any]:
    """Write the example as MLflow's own writer does; return its entry in MLmodel."""
    table = {"columns": ["image"], "data": [[base64.b64encode(example).decode("ascii")]]}
    write_json(folder / "input_example.json", table)
    write_json(folder / "serving_input_example.json", {"dataframe_split": table})
    return {
        "artifact_path": "input_example.json",
        "serving_input_path": "serving_input_example.json",
        "type": "dataframe",
        "pandas_orient": "split",
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
