"""The cluster files, and slips of the pen in them."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

CLUSTERS = Path(__file__).parents[2] / "clusters"
HERE = Path(__file__).parent
Config = dict[str, Any]


def load(name: str) -> Config:
    return yaml.safe_load((CLUSTERS / name).read_text())


def schema(name: str) -> Config:
    return json.loads((HERE / name).read_text())


def own(config: Config) -> Config:
    """A copy through JSON, as anchors make parts of a file share their dicts."""
    return json.loads(json.dumps(config))


def _at(config: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        config = config[key]
    return config


def rename(old: str, new: str, *path: str | int) -> Callable[[Config], None]:
    def mutate(config: Config) -> None:
        part = _at(config, path)
        part[new] = part.pop(old)

    return mutate


def put(value: Any, *path: str | int) -> Callable[[Config], None]:
    def mutate(config: Config) -> None:
        _at(config, path[:-1])[path[-1]] = value

    return mutate


def check_shell(command: str) -> None:
    """Raises CalledProcessError if bash cannot read it. In parentheses, as Ray runs commands."""
    subprocess.run(["bash", "-n", "-c", f"true && ({command})"], check=True, capture_output=True)
