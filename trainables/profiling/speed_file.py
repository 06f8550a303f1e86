"""Keep what was timed on each device, so that a later sweep knows before it begins."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from trainables.profiling.speed import Pass, Timing, Work, combined
from trainables.storage.damage import unless_damaged
from trainables.storage.files import read_record, write_json
from trainables.storage.hashing import content_hash
from trainables.storage.typed import checked

log = logging.getLogger("fixres")
SPEEDS = "speeds"  # folder in the cache
MOST = 500  # timings of a device


@dataclass(frozen=True, kw_only=True)
class DeviceTimings:
    """What was timed on one device, the latest last."""

    device: str
    """Its name, and how much of it a trial had."""
    on_gpu: bool
    timings: tuple[Timing, ...] = ()
    start_s: float | None = None
    """Seconds that a trial takes before its work begins; None: not timed."""
    boot_s: float | None = None
    """Seconds from the start of a command to its first trial's; None: not timed."""
    spawn_s: float | None = None
    """Seconds until a phase's first process is ready for its work; None: not timed."""
    close_s: float | None = None
    """Seconds from the last cell to the finished sweep, without readings; None: not timed."""


def read_timings(cache: Path, device: str) -> DeviceTimings | None:
    """Read what was timed on a device; None: nothing, or it cannot be read."""
    found = unless_damaged(lambda: read_record(_path(cache, device), _from_json))
    return found if found is not None and found.device == device else None


def read_all_timings(cache: Path) -> list[DeviceTimings]:
    """Read what was timed on any device, the latest first."""
    paths = sorted((cache / SPEEDS).glob("*.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    read = (unless_damaged(partial(read_record, path, _from_json)) for path in paths)
    return [timed for timed in read if timed is not None]


def keep_timings(cache: Path, added: DeviceTimings) -> None:
    """Add what was timed to what is kept of the device; a cache that is full keeps nothing."""
    try:
        before = read_timings(cache, added.device)
        both = _merged(before or replace(added, timings=()), added)
        write_json(_path(cache, added.device), both)
    except OSError as error:
        log.warning("what was timed on %s is not kept (%s)", added.device, error)


def _merged(before: DeviceTimings, added: DeviceTimings) -> DeviceTimings:
    return replace(
        added,
        timings=combined((*before.timings, *added.timings))[-MOST:],
        start_s=before.start_s if added.start_s is None else added.start_s,
        boot_s=before.boot_s if added.boot_s is None else added.boot_s,
        spawn_s=before.spawn_s if added.spawn_s is None else added.spawn_s,
        close_s=before.close_s if added.close_s is None else added.close_s,
    )


def _path(cache: Path, device: str) -> Path:
    return cache / SPEEDS / f"{content_hash('speeds 1', device)}.json"


def _from_json(value: Mapping[str, Any]) -> DeviceTimings:
    """Read what was timed from its JSON; raises anything for what is none."""
    return checked(DeviceTimings(**{**value, "timings": tuple(map(_timing, value["timings"]))}))


def _timing(value: Mapping[str, Any]) -> Timing:
    work = value["work"]
    passes = tuple(checked(Pass(**one)) for one in work["passes"])
    read = checked(
        Timing(work=checked(Work(**{**work, "passes": passes})), seconds=value["seconds"])
    )
    if not read.seconds > 0:
        raise ValueError("a timing is no time")
    return read
