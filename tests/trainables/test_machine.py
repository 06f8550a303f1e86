"""What a container may use of its machine: its control group's files as Linux writes them."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from trainables.machine import available_cores, available_memory_bytes


def written(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1),
     ("3200000 100000", 8), ("", 8), ("0 0", 8)],
)  # fmt: skip
def test_a_share_of_the_cores_of_version_2(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert available_cores(tmp_path) == cores


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("300000", 3), ("1000", 1)])
def test_a_share_of_the_cores_of_version_1(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota + "\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert available_cores(tmp_path) == cores


def test_cores_that_a_process_may_not_run_on_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5}, raising=False)
    assert available_cores(Path("nowhere")) == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    assert available_cores(Path("nowhere")) == (os.cpu_count() or 1)


@pytest.mark.parametrize(
    "files",
    [
        {"memory.max": "3000", "memory.current": "2500", "memory.stat": "anon 9\ninactive_file 7"},
        {
            "memory__memory.limit_in_bytes": "3000\n",
            "memory__memory.usage_in_bytes": "2500\n",
            "memory__memory.stat": "inactive_file 1\ntotal_inactive_file 7\n",
        },
    ],
)
def test_a_container_has_its_own_memory_left(tmp_path: Path, files: dict[str, str]) -> None:
    assert available_memory_bytes(written(tmp_path, **files)) == 507


def test_without_a_limit_the_machine_has_what_is_free(tmp_path: Path) -> None:
    written(tmp_path, **{"memory.max": "max", "memory.current": "2500"})
    free = psutil.virtual_memory().available
    assert available_memory_bytes(tmp_path) == pytest.approx(free, rel=0.2)
