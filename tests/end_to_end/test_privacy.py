"""A sweep calls nobody whom its user did not name, and no file of it holds a secret."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.end_to_end.lookups import STRACE, names_looked_up, watched
from tests.end_to_end.sweeping import PLANTED, files_with, run_command

pytestmark = pytest.mark.slow

needs_strace = pytest.mark.skipif(STRACE is None, reason="strace is not installed")


@needs_strace
def test_a_look_up_is_seen(tmp_path: Path) -> None:
    script = """
import socket, subprocess, sys
def ask(name):
    try:
        socket.getaddrinfo(name, 80)
    except OSError:
        pass
ask("planted.example.org")
subprocess.run(["getent", "hosts", "by-a-child.example.org"])
"""
    done = run_command(watched([sys.executable, "-c", script], tmp_path / "sent"))
    assert done.returncode == 0, done.stderr
    names = names_looked_up(tmp_path / "sent")
    assert {"planted.example.org", "by-a-child.example.org"} <= names


@needs_strace
def test_a_sweep_on_local_images_looks_up_no_name(undisturbed: Path) -> None:
    assert (undisturbed.parent / "sent").stat().st_size > 0
    assert names_looked_up(undisturbed.parent / "sent") == set()


@needs_strace
def test_a_model_that_is_served_looks_up_no_name(undisturbed: Path, tmp_path: Path) -> None:
    """ONNX Runtime would, some seconds after a session began, and leave a file at home."""
    script = """
import sys, time
import mlflow.pyfunc
mlflow.pyfunc.load_model(sys.argv[1])
time.sleep(12)
"""
    home = tmp_path / "home"
    home.mkdir()
    loading = [sys.executable, "-c", script, str(undisturbed / "model")]
    variables = {"HOME": str(home), "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = run_command(watched(loading, tmp_path / "sent"), variables)
    assert done.returncode == 0, done.stderr
    assert names_looked_up(tmp_path / "sent") == set()
    assert not [p for p in home.rglob("*") if "onnx" in str(p).lower()]


def test_no_file_holds_a_secret_of_the_environment(undisturbed: Path) -> None:
    assert files_with(PLANTED, undisturbed) == []
    assert PLANTED not in (undisturbed.parent / "said").read_text()
