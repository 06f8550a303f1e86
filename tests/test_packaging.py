"""What an installed package needs: its commands, and its files that are no Python."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import HANG_S

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMMANDS = {
    "fixres-grid": "sweeps/fixres_grid.py",
    "fixres-select": "sweeps/select_best.py",
    "fixres-latency": "sweeps/measure_latency.py",
    "fixres-predict": "sweeps/predict.py",
}


@pytest.fixture
def same_environment() -> Iterator[None]:
    """Take back what a command's module sets for Ray."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_every_file_that_is_no_python_goes_along() -> None:
    globs = PROJECT["tool"]["setuptools"]["package-data"]
    declared = {
        path
        for package, patterns in globs.items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    there = {
        path
        for package in ("sweeps", "trainables")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert there == declared
    assert {path.name for path in there} >= {"py.typed", "template.html"}


def test_both_packages_say_that_they_are_typed() -> None:
    assert all((ROOT / package / "py.typed").is_file() for package in ("sweeps", "trainables"))


def test_commands_are_those_of_the_scripts() -> None:
    for command, script in COMMANDS.items():
        module = script.removesuffix(".py").replace("/", ".")
        assert PROJECT["project"]["scripts"][command] == f"{module}:console_main"


@pytest.mark.usefixtures("same_environment")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_calls_itself_by_its_name(
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)  # pytest keeps its own handlers
    monkeypatch.setattr("sys.argv", [f"/bin/{command}", "--help"])
    module, _, function = PROJECT["project"]["scripts"][command].partition(":")
    assert getattr(importlib.import_module(module), function)() == 0
    assert capsys.readouterr().out.startswith(f"usage: {command} ")


@pytest.mark.parametrize("script", COMMANDS.values())
def test_a_script_runs_without_naming_python(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert (ROOT / script).read_text().startswith("#!/usr/bin/env python3\n")


@pytest.mark.parametrize("script", COMMANDS.values())
def test_help_may_be_cut_short_by_its_reader(script: str) -> None:
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, str(ROOT / script), "--help"]
    # Of an output without a buffer argparse says nothing, and ends with 0.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(argv, env=buffered, stdout=write, stderr=subprocess.PIPE, timeout=HANG_S)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")
