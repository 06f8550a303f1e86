"""Makes the finished model's folder, the one that timm opens, an MLflow model too.

    MLmodel                      flavor python_function, signature, input example
    code/                        what runs it: this package's, without the package
    requirements.txt             what that needs: no PyTorch
    python_env.yaml, conda.yaml  the same, for MLflow's environment managers
    input_example.json           an image; serving_input_example.json: the same as a request

The weights stay as they are: ``code/`` reads config.json and model.onnx, which lie beside it.

The signature names one column, "image", of any type. A union of bytes and arrays is not to be had;
the type binary would have the server decode base64 and so refuse arrays in JSON; a typed array is
checked value by value. So the model checks what it gets. Bare arrays and lists of bytes cannot pass
any signature of columns (MLflow makes a table of two dimensions of them): they come as
``{"image": [...]}`` or a DataFrame. No signature at all would let them, and describe nothing.
"""

from __future__ import annotations

import base64
import hashlib
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import AnyType, Array

from sweeps.final_model import pyfunc_model
from trainables.data import pixels
from trainables.data.options import ReadOptions
from trainables.storage.files import write_json, write_text

PACKAGES = ("mlflow", "numpy", "onnxruntime", "pandas", "pillow")
EPOCH = "1970-01-01 00:00:00"  # MLflow wants a date; the same folder is to give the same bytes
# In code/, by the names that they are imported by. trainables is a folder without __init__.py
# there, so that it never hides the whole package where there is one.
CODE = {"pyfunc_model.py": pyfunc_model, "trainables/data/pixels.py": pixels}


def write_mlflow_model(
    folder: Path, *, example: bytes, cache_side: int = ReadOptions.cache_side
) -> None:
    """Add to ``folder`` what makes it an MLflow model; the same folder, the same bytes.

    Args:
        folder: with config.json, model.safetensors and model.onnx.
        example: an image file that the model is shown with; small, it is kept twice as base64.
        cache_side: px; larger images are reduced to it first, as they were in the sweep.
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
        model_config={"cache_side": cache_side},
    )
    write_text(folder / "MLmodel", model.to_yaml())


def _signature() -> ModelSignature:
    numbers = Array(DataType.double)
    return ModelSignature(
        inputs=Schema([ColSpec(AnyType(), "image")]),
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
    """MLflow wants conda.yaml even where nobody uses conda."""
    pins = [f"{name}=={version(name)}" for name in PACKAGES]
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
    # JSON is YAML.
    write_json(folder / "python_env.yaml", environment)
    write_json(folder / "conda.yaml", conda)


def _write_example(folder: Path, example: bytes) -> dict[str, Any]:
    """The example as MLflow's own writer lays it out; what MLmodel says of it."""
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
