"""The npm packages of the tests: exact versions, installed once, and missed by tests alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from tests.javascript import lacking_packages

ROOT = Path(__file__).resolve().parents[1]
MAKE, BASH, NPM = shutil.which("make"), shutil.which("bash"), shutil.which("npm")

needs_make = pytest.mark.skipif(MAKE is None or BASH is None, reason="make is not installed")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the files that ``make npm-packages`` reads, and a PATH of its own in tools."""
    for name in ("Makefile", "package.json"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "tools").mkdir()
    for name in ("bash", "cat", "cmp", "cp", "flock"):
        if found := shutil.which(name):
            (tmp_path / "tools" / name).symlink_to(found)
    (tmp_path / "node_modules").mkdir()
    return tmp_path


def with_npm(checkout: Path, code: int) -> None:
    """An npm that notes how it was called, and ends with this exit code."""
    npm = checkout / "tools" / "npm"
    npm.write_text(f'#!{BASH}\necho "$*" >> asked\nexit {code}\n')
    npm.chmod(0o755)


def asked(checkout: Path) -> list[str]:
    """How npm was called."""
    file = checkout / "asked"
    return file.read_text().splitlines() if file.exists() else []


def made(checkout: Path, environment: Mapping[str, str] | None = None) -> str:
    """What ``make npm-packages`` complains of; it never fails."""
    done = subprocess.run(
        [str(MAKE), "npm-packages"],
        cwd=checkout,
        env=environment or {"PATH": str(checkout / "tools")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_versions_are_exact_and_all_packages_that_tests_need_are_named() -> None:
    named = json.loads((ROOT / "package.json").read_text())["devDependencies"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in named.values())
    needed = {
        name
        for path in (ROOT / "tests" / "sweeps" / "demo").glob("test_*.py")
        for given in re.findall(r"needs_packages\(([^)]*)\)", path.read_text())
        for name in re.findall(r'"([^"]+)"', given)
    }
    assert needed == set(named)


@needs_make
def test_packages_are_installed_once_and_again_after_a_change(checkout: Path) -> None:
    with_npm(checkout, 0)
    assert (made(checkout), made(checkout)) == ("", "")
    (call,) = asked(checkout)
    assert call.startswith("install ") and "--ignore-scripts" in call
    (checkout / "package.json").touch()  # as checking out another commit and this one again does
    made(checkout)
    assert asked(checkout) == [call]
    (checkout / "package.json").write_text('{"devDependencies": {"sharp": "0.35.6"}}')
    made(checkout)
    assert asked(checkout) == [call, call]


@needs_make
def test_tests_go_on_where_packages_cannot_be_had(checkout: Path) -> None:
    assert made(checkout) == ""  # there is no npm
    with_npm(checkout, 1)
    for _ in range(2):
        assert "cannot be had: tests that need them are skipped" in made(checkout)
    assert len(asked(checkout)) == 2


@needs_make
def test_tests_go_on_in_a_folder_that_cannot_be_written_to(checkout: Path) -> None:
    (checkout / ".venv.lock").mkdir()  # the user root may write to any folder
    assert made(checkout) == ""  # there is no npm
    with_npm(checkout, 0)
    assert "as this folder cannot be written to: tests that need them are" in made(checkout)
    shutil.copy(checkout / "package.json", checkout / "node_modules" / ".whole")
    assert made(checkout) == ""
    assert asked(checkout) == []


@needs_make
@pytest.mark.skipif(NPM is None, reason="npm is not installed")
def test_a_server_that_never_answers_is_asked_once_for_a_package(checkout: Path) -> None:
    """It takes the 20 seconds that are waited for an answer."""
    (checkout / "package.json").write_text('{"devDependencies": {"sharp": "0.35.5"}}')
    with socket.create_server(("127.0.0.1", 0)) as server:  # the system takes calls, as it listens
        port = server.getsockname()[1]
        asked_of = {
            "npm_config_registry": f"http://127.0.0.1:{port}",
            "npm_config_cache": str(checkout / "cache"),
        }
        complaint = made(checkout, {"PATH": os.environ["PATH"], **asked_of})
        server.setblocking(False)
        calls = []
        with suppress(BlockingIOError):
            while True:
                calls.append(server.accept()[0])
    for call in calls:
        call.close()
    assert "timeout" in complaint and "tests that need them are skipped" in complaint
    assert len(calls) == 1


def test_a_package_is_lacking_where_there_is_none_or_another_version(tmp_path: Path) -> None:
    def lacks(version: str | None) -> list[str]:
        found = tmp_path / "node_modules" / "sharp" / "package.json"
        found.parent.mkdir(parents=True, exist_ok=True)
        if version is not None:
            found.write_text(version)
        return lacking_packages(("sharp",), tmp_path)

    (tmp_path / "package.json").write_text('{"devDependencies": {"sharp": "0.35.5"}}')
    assert lacks(None) == ["sharp 0.35.5"]
    assert lacks('{"version": "0.35.5"}') == []
    assert lacks('{"version": "0.35.4"}') == ["sharp 0.35.5 (there is 0.35.4)"]
    assert lacks('{"versi') == ["sharp 0.35.5"]  # it was cut off
