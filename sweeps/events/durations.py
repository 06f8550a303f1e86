"""Predict the seconds that the parts of a sweep take, and learn from each that ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import fmean

from sweeps.events.event_types import (
    CellBegan,
    CellEnded,
    CellsPlanned,
    EpochEnded,
    Event,
    TrunkBegan,
)
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.planning.workload import cell_work, epoch_work, image_pass
from trainables.models.device import CPU
from trainables.profiling.speed import Timing, Work, combined
from trainables.profiling.speed_file import MOST, DeviceTimings

# Where that was never timed: seconds from the start of a command to its first trial's, from a
# process that is ready to a trial's first step, from the beginning of a phase to its first process
# that is ready, and from the last cell to the end.
BOOT_S, START_S, SPAWN_S, CLOSE_S = 30.0, 2.0, 15.0, 60.0


@dataclass
class _Device:
    """What was timed on a device in this process, and before."""

    kept: DeviceTimings
    added: list[Timing] = field(default_factory=list)
    seconds: float = 0.0  # of what was timed in this process
    kinds: set[tuple[object, ...]] = field(default_factory=set)  # of the works of these
    learn_at: int = 1  # how many of these there are when coefficients are fitted next

    def add(self, timing: Timing) -> bool:
        """Add a timing; say whether it is time to learn from all that there are.

        That is so after each of the first, and of the first of a kind; later, when there are a
        tenth more: a fit takes as long as a hundred events.
        """
        self.added.append(timing)
        self.seconds += timing.seconds
        count = len(self.added)
        learns = count >= self.learn_at or timing.work.kind not in self.kinds
        self.kinds.add(timing.work.kind)
        if learns:
            self.learn_at = count + max(1, count // 10)
        return learns


class Durations:
    """A watcher that times epochs and cells, and predicts those that are to come.

    Predictions are for the device on which this process has timed most, or else for the first of
    those that earlier sweeps have timed.

    Args:
        kept: what earlier sweeps have timed, by device.
        clock: tells the time, s.
        command_began: when this command did; None: now.
    """

    def __init__(
        self,
        plan: Plan,
        kept: Sequence[DeviceTimings] = (),
        clock: Callable[[], float] = time.time,
        command_began: float | None = None,
    ):
        self._plan, self._clock = plan, clock
        self.kept = tuple(kept)
        self._began = clock()
        self._command_began = self._began if command_began is None else command_began
        self._devices = {known.device: _Device(known) for known in kept}
        self._boot_s: float | None = None
        self._step_began: dict[str, float] = {}  # time by key, of trunks and cells that run
        self._planned_at: float | None = None  # the cells, until the first has ended
        self._spawned_s: float | None = None
        self._closed_s: float | None = None
        self._starts: list[float] = []  # seconds that trials took before their work began
        # All are made when they are asked for, and made anew after further timings.
        self._cell_s: dict[tuple[str, int, tuple[str, ...] | None], float] = {}
        self._timed_device: DeviceTimings | None = None
        self._predict: Callable[[Work], float] | None = None

    # --- what is timed --------------------------------------------------------------------------

    def on(self, event: Event) -> None:
        """Time the step that an event ends; what the store already held is none of this process."""
        match event:
            case TrunkBegan(trunk=trunk):
                if self._boot_s is None:
                    self._boot_s = self._clock() - self._command_began
                self._step_began[trunk.key] = self._clock()
            case EpochEnded(trunk=trunk, report=report) if report.at >= 1000 * self._began:
                began = self._step_began.pop(trunk.key, None)
                if began is not None:
                    self._starts.append(max(0.0, self._clock() - began - report.seconds))
                rungs = self._plan.spec.rungs_to(trunk.recipe.epochs)
                work = epoch_work(
                    self._plan, point_of(trunk), report.epoch, trunk.recipe.batch_size, rungs
                )
                self._time(report.device, work, report.seconds)
            case CellsPlanned() if self._boot_s is None:  # else processes go on from the trunks
                self._planned_at = self._clock()
            case CellBegan(cell=cell):
                self._step_began[cell.key] = self._clock()
            case CellEnded(cell=cell, rows=rows) if rows and cell.key in self._step_began:
                del self._step_began[cell.key]
                seconds = sum(row.seconds for row in rows)
                if self._planned_at is not None:
                    self._spawned_s = max(0.0, self._clock() - self._planned_at - seconds)
                    self._planned_at = None
                work = cell_work(self._plan, cell.variant, cell.test_res, cell.spec.arms)
                self._time(self.device, work, seconds)

    @contextmanager
    def closing(self) -> Iterator[list[float]]:
        """Time the end of the sweep, after its last cell, while the block runs.

        Yields:
            A list for the seconds of readings in it, which grow with the images and are predicted.
        """
        began, readings = self._clock(), list[float]()
        yield readings
        self._closed_s = max(0.0, self._clock() - began - sum(readings))

    def learn(self, timed: Iterable[DeviceTimings]) -> None:
        """Take what was timed on devices by itself, before the sweep."""
        for known in timed:
            for timing in known.timings:
                self._time(known.device, timing.work, timing.seconds)

    def _time(self, name: str, work: Work, seconds: float) -> None:
        if seconds <= 0 or not (work.passes or work.head_steps):
            return
        on_gpu = not name.startswith(CPU)
        new = _Device(DeviceTimings(device=name, on_gpu=on_gpu))
        device = self._devices.setdefault(name, new)
        if device.add(Timing(work=work, seconds=seconds)):
            self._timed_device = self._predict = None
            self._cell_s.clear()

    # --- what is predicted ----------------------------------------------------------------------

    @property
    def device(self) -> str:
        """Name the device that predictions are for; empty: none was timed."""
        return self._known.device

    @property
    def _known(self) -> DeviceTimings:
        """What was timed on that device, in this process and before."""
        if self._timed_device is None:
            most = max(self._devices.values(), key=lambda d: d.seconds, default=None)
            most = most or _Device(DeviceTimings(device="", on_gpu=True))
            timings = combined((*most.kept.timings, *most.added))[-MOST:]
            self._timed_device = replace(most.kept, timings=timings)
        return self._timed_device

    def _seconds(self, work: Work) -> float:
        if self._predict is None:
            self._predict = lru_cache(maxsize=None)(self._known.speed.seconds)
        return self._predict(work)

    @property
    def timed_s(self) -> float:
        """Seconds of all that this process has timed."""
        return sum(device.seconds for device in self._devices.values())

    @property
    def is_measured(self) -> bool:
        """Whether anything was timed; else seconds are those of a nominal device."""
        return bool(self._known.timings)

    def epoch_s(self, point: Point, epoch: int) -> float:
        """Predict an epoch of a trunk, with the scoring of val after it if it is a rung."""
        kind = epoch if epoch == 0 else self._rung_or_not(point, epoch)
        return self._seconds(epoch_work(self._plan, point, kind))

    def _rung_or_not(self, point: Point, epoch: int) -> int:
        """Return an epoch of a point that takes as long: there are but two kinds."""
        rungs = self._plan.rungs_at(point)
        if epoch in rungs:
            return rungs[-1]
        return next((e for e in range(1, rungs[-1]) if e not in rungs), epoch)

    def trunk_s(self, point: Point, after: int, until: int) -> float:
        """Predict the epochs of a trunk after ``after``, up to ``until``, and its trial's start."""
        epochs = range(after + 1, until + 1)
        return sum(self.epoch_s(point, epoch) for epoch in epochs) + self.start_s

    def cell_s(self, variant: str, test_res: int, arms: Sequence[str] | None = None) -> float:
        """Predict a cell; ``arms`` as in :func:`sweeps.planning.workload.cell_work`."""
        kind = variant, test_res, None if arms is None else tuple(arms)
        if kind not in self._cell_s:
            self._cell_s[kind] = self._seconds(cell_work(self._plan, variant, test_res, arms))
        return self._cell_s[kind]

    def reading_s(self, variant: str, test_res: int, images: int) -> float:
        """Predict the scoring of a net, tuned and untuned in one pass, on images."""
        return self._seconds(Work(passes=(image_pass(self._plan, variant, test_res, images),)))

    @property
    def start_s(self) -> float:
        """Seconds that a trial takes before its work begins."""
        if self._starts:
            return fmean(self._starts)
        return START_S if self._known.start_s is None else self._known.start_s

    @property
    def boot_s(self) -> float:
        """Seconds from the start of a command to its first trial's."""
        known = self._known.boot_s if self._boot_s is None else self._boot_s
        return BOOT_S if known is None else known

    @property
    def spawn_s(self) -> float:
        """Seconds from the beginning of a phase to its first process that is ready."""
        known = self._known.spawn_s if self._spawned_s is None else self._spawned_s
        return SPAWN_S if known is None else known

    @property
    def close_s(self) -> float:
        """Seconds from the last cell to the finished sweep, without readings."""
        return CLOSE_S if self._known.close_s is None else self._known.close_s

    def timed(self) -> list[DeviceTimings]:
        """List what this process has timed, by device, where that is known."""
        start_s = fmean(self._starts) if self._starts else None
        return [
            replace(
                device.kept,
                timings=tuple(device.added),
                start_s=start_s,
                boot_s=self._boot_s,
                spawn_s=self._spawned_s,
                close_s=self._closed_s,
            )
            for device in self._devices.values()
            if device.added and device.kept.device
        ]
