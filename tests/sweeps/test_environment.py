"""Variables of the process's environment that Ray reads."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from sweeps.environment import (
    MAX_SOCKET_BYTES,
    SOCKET,
    check_environment,
    notes,
    on_cluster,
    set_environment,
)
from trainables.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def test_a_cluster_is_one_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for address, expected in (
        (None, False),
        ("", False),
        ("local", False),
        ("10.0.0.1:6379", True),
    ):
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        if address is not None:
            monkeypatch.setenv("RAY_ADDRESS", address)
        assert on_cluster() is expected


@pytest.mark.parametrize("cluster", [True, False])
def test_environment_is_set_where_it_is_not(monkeypatch: pytest.MonkeyPatch, cluster: bool) -> None:
    for name in list(os.environ):
        if name.startswith(("RAY_", "TUNE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "1")  # the user's own choice stays
    if cluster:
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    before = set(os.environ)
    try:
        set_environment()
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert os.environ["RAY_AIR_NEW_OUTPUT"] == "1"
        assert ("RAY_AUTH_TOKEN" in os.environ) is not cluster
    finally:
        for name in set(os.environ) - before:
            del os.environ[name]


def test_sigterm_interrupts() -> None:
    """In a process of its own, whose end would be that of no other test."""
    lines = [
        "import signal",
        "from sweeps.environment import interrupt_on_sigterm",
        "interrupt_on_sigterm()",
        "try:",
        "    signal.raise_signal(signal.SIGTERM)",
        "except KeyboardInterrupt:",
        "    print('interrupted')",
    ]
    said = subprocess.check_output([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, text=True)
    assert said == "interrupted\n"


def temporary_folder(parent: Path, size: int) -> str:
    """A folder whose path has ``size`` bytes, the last of them not ASCII."""
    folder = f"{parent}/{'x' * (size - len(str(parent)) - 3)}\u00e9"
    os.makedirs(folder)
    assert len(os.fsencode(folder)) == size
    return folder


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment in which nothing that is checked is set; all that is set is taken back."""
    before = dict(os.environ)
    proxies = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR", *proxies, *map(str.upper, proxies)):
        os.environ.pop(name, None)
    yield monkeypatch
    monkeypatch.undo()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="x") as folder:
        yield Path(folder)


def test_a_usual_environment_is_taken(user: pytest.MonkeyPatch, short: Path) -> None:
    check_environment()
    user.setenv("TMPDIR", temporary_folder(short, MAX_SOCKET_BYTES - len(SOCKET)))
    set_environment()
    assert "RAY_TMPDIR" not in os.environ and notes() == []
    check_environment()


def test_a_long_tmpdir_is_left_to_others_than_ray(user: pytest.MonkeyPatch, short: Path) -> None:
    user.setenv("TMPDIR", temporary_folder(short, MAX_SOCKET_BYTES - len(SOCKET) + 1))
    set_environment()
    assert os.environ["RAY_TMPDIR"] == "/tmp"
    check_environment()
    (note,) = notes()
    assert os.environ["TMPDIR"] in note and "/tmp" in note


def test_a_long_folder_that_is_meant_for_ray_is_refused(
    user: pytest.MonkeyPatch, short: Path
) -> None:
    user.setenv("RAY_TMPDIR", temporary_folder(short, MAX_SOCKET_BYTES - len(SOCKET) + 1))
    set_environment()
    with pytest.raises(UserError, match=r"^RAY_TMPDIR .* is too long .* at most 39 bytes"):
        check_environment()


def test_a_temporary_folder_that_is_not_there_is_refused(user: pytest.MonkeyPatch) -> None:
    user.setenv("TMPDIR", "/nonexistent")
    with pytest.raises(UserError, match=r"^TMPDIR /nonexistent is no folder"):
        check_environment()


@pytest.mark.parametrize("name", ["http_proxy", "HTTPS_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize("given", ["no_proxy", "NO_PROXY", None])
def test_a_proxy_is_not_asked_for_servers_of_this_machine(
    user: pytest.MonkeyPatch, name: str, given: str | None
) -> None:
    user.setenv(name, "http://proxy.example.org:3128")
    if given:
        user.setenv(given, "intern.example.org")
    set_environment()
    for host in ("127.0.0.1:5000", "localhost:5000", *(["intern.example.org"] if given else [])):
        assert requests.utils.get_environ_proxies(f"http://{host}/") == {}
    assert requests.utils.get_environ_proxies("https://example.org/")


def test_a_user_without_a_home_is_told(user: pytest.MonkeyPatch) -> None:
    user.delenv("HOME", raising=False)
    user.setattr("pwd.getpwuid", lambda uid: {}[uid])
    with pytest.raises(UserError, match=r"^HOME is not set"):
        check_environment()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://127.0.0.1:8265", "dashboard.* ray job submit"),
        ("https://ray.example.org", "dashboard.* ray job submit"),
        ("ray://10.0.0.1:10001", "Ray Client.* ray job submit"),
    ],
)
def test_an_address_of_another_kind_is_refused(
    user: pytest.MonkeyPatch, address: str, reason: str
) -> None:
    user.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=f"^RAY_ADDRESS {address} is .*{reason}"):
        check_environment()
