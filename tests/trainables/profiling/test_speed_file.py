"""What was timed on a device is found again by later sweeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainables.profiling.speed import Pass, Timing, Work
from trainables.profiling.speed_file import (
    MOST,
    DeviceTimings,
    keep_timings,
    read_all_timings,
    read_timings,
)

CPU = "CPU of a test, 2 threads"


def timing(seconds: float, gmacs: float = 1.0) -> Timing:
    one = Pass(gmacs=gmacs, activations_m=9.0, layers=80, images=100, batch=32, train=True)
    return Timing(work=Work(passes=(one,), head_steps=3), seconds=seconds)


def timed(*timings: Timing, device: str = CPU, **ends: float) -> DeviceTimings:
    return DeviceTimings(device=device, on_gpu=False, timings=timings, **ends)


def test_what_is_kept_is_read_again_and_added_to(tmp_path: Path) -> None:
    keep_timings(tmp_path, timed(timing(1.0), start_s=4.0, close_s=50.0))
    keep_timings(tmp_path, timed(timing(2.0), start_s=5.0))
    keep_timings(tmp_path, timed(timing(7.0), device="another"))
    assert read_timings(tmp_path, CPU) == timed(timing(1.0), timing(2.0), start_s=5.0, close_s=50.0)
    assert [known.device for known in read_all_timings(tmp_path)] == ["another", CPU]
    assert read_timings(tmp_path, "a third") is None


def test_a_device_keeps_no_more_than_so_many(tmp_path: Path) -> None:
    for number in range(3):
        nets = [timing(1.0 + i, gmacs=float(i)) for i in range(number, MOST, 2)]
        keep_timings(tmp_path, timed(*nets))
    kept = read_timings(tmp_path, CPU)
    assert kept is not None and len(kept.timings) == MOST
    assert kept.timings[-1] == timing(float(MOST - 1), gmacs=float(MOST - 2))


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"device": "CPU"}', '{"device": 3, "on_gpu": 1, "timings": [7]}']
)
def test_a_damaged_file_counts_as_none(tmp_path: Path, content: str) -> None:
    keep_timings(tmp_path, timed(timing(1.0)))
    (path,) = (tmp_path / "speeds").iterdir()
    path.write_text(content)
    assert read_timings(tmp_path, CPU) is None and read_all_timings(tmp_path) == []
    keep_timings(tmp_path, timed(timing(3.0)))
    assert read_timings(tmp_path, CPU) == timed(timing(3.0))


def test_a_cache_that_cannot_be_written_to_costs_no_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "speeds").write_text("in the way")
    keep_timings(tmp_path, timed(timing(1.0)))
    assert "is not kept" in caplog.text
