"""Tell a model's folder from others, and read how its images are read; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainables.errors import UserError, printable

ONNX_FILE, CONFIG_FILE, MLFLOW_FILE = "model.onnx", "config.json", "MLmodel"


def reading_config(folder: Path) -> dict[str, Any]:
    """Read how a finished model reads images: "cache_side", and "whites" where it has some.

    Raises:
        UserError: a sweep has not written the folder.
    """
    lacks = [name for name in (CONFIG_FILE, ONNX_FILE, MLFLOW_FILE) if not (folder / name).exists()]
    if lacks:
        raise UserError(
            f"{printable(str(folder))} has no {lacks[0]}: name the folder OUT/model of a finished "
            "sweep."
        )
    import yaml  # after the check, so that a wrong folder fails at once, and --help without it

    written = yaml.safe_load((folder / MLFLOW_FILE).read_text(encoding="utf-8"))
    config: dict[str, Any] = written["flavors"]["python_function"]["config"]
    return config
