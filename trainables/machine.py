"""See how much of this machine a process may use: in a container, a share of it.

The limits are those of Linux's control groups, version 2 or 1, as a container sees its own.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available_cores(cgroup: Path = CGROUP) -> int:
    """Count the CPU cores that this process may use.

    Those are the cores that it may run on; where it may use them for a share of the time alone, as
    many as that share comes to, and one at least.

    Args:
        cgroup: where the control group of the process is mounted.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    shares = [
        _quotient(cgroup / "cpu.max"),
        _quotient(cgroup / "cpu" / "cpu.cfs_quota_us", cgroup / "cpu" / "cpu.cfs_period_us"),
    ]
    return max(1, min([cores, *(int(share) for share in shares if share is not None)]))


def available_memory_bytes(cgroup: Path = CGROUP) -> int:
    """Look up the bytes of memory that new processes could take now, without swapping.

    Args:
        cgroup: where the control group of the process is mounted.
    """
    import psutil  # Not where nets are timed with ONNX Runtime alone.

    v1 = cgroup / "memory"
    free = [
        _left(cgroup / "memory.max", cgroup / "memory.current", cgroup / "memory.stat"),
        _left(v1 / "memory.limit_in_bytes", v1 / "memory.usage_in_bytes", v1 / "memory.stat"),
    ]
    return min([int(psutil.virtual_memory().available), *(b for b in free if b is not None)])


def _left(limit: Path, used: Path, statistics: Path) -> int | None:
    """Look up what a control group has left, with the caches of files that it would give back."""
    numbers = [*_numbers(limit), *_numbers(used)]
    if len(numbers) != 2:
        return None
    try:
        counts = dict(line.split() for line in statistics.read_text().splitlines())
        cached = int(counts.get("total_inactive_file", counts.get("inactive_file", 0)))
    except (OSError, ValueError):
        cached = 0
    return max(0, numbers[0] - numbers[1] + cached)


def _quotient(*paths: Path) -> float | None:
    """Divide the two numbers in one file or two; None: they set no limit."""
    numbers = [number for path in paths for number in _numbers(path)]
    if len(numbers) != 2 or min(numbers) <= 0:
        return None
    return numbers[0] / numbers[1]


def _numbers(path: Path) -> list[int]:
    """Read the whole numbers of a file; none where there is no such file, or a word in it."""
    try:
        return [int(word) for word in path.read_text().split()]
    except (OSError, ValueError):  # "max" is no limit
        return []


def cpu_name() -> str:
    """Name this machine's CPU."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
