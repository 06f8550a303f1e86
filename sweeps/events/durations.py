"""Predict the seconds that the parts of a sweep take, and learn from each that ends."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

from sweeps.events.event_types import (
    CellBegan,
    CellEnded,
    CellsPlanned,
    EpochEnded,
    Event,
    TrunkBegan,
    TrunkEnded,
    TrunkPaused,
)
from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from sweeps.planning.workload import cell_work, epoch_work, image_pass, probe_work, probes
from trainables.models.device import CPU
from trainables.profiling.speed import Speed, Timing, Work, combined
from trainables.profiling.speed_file import MOST, DeviceTimings
from trainables.training.class_balance import fitted_class_weights
from trainables.training.recipe import ClassWeights

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
            self.__dict__.pop("speed", None)
        return learns

    @cached_property
    def speed(self) -> Speed:
        """What the timings say, those of this process and those before."""
        timings = combined((*self.kept.timings, *self.added))[-MOST:]
        return Speed(on_gpu=self.kept.on_gpu, timings=timings)


class Durations:
    """A watcher that times epochs and cells, and predicts those that are to come.

    Predictions are for the device on which this process has timed most, of those where work of the
    kind was timed, if there are any: a share of a GPU is a device of its own, and a net always has
    the same. Where this process has timed none, they are for the first that earlier sweeps have.

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
        # How classes are weighed in the linear probes that have been fitted, by point.
        self._probed: dict[Point, set[ClassWeights]] = defaultdict(set)
        self._step_began: dict[str, float] = {}  # time by key, of trunks and cells that run
        self._planned_at: float | None = None  # the cells, until the first has ended
        self._spawned_s: float | None = None
        self._closed_s: float | None = None
        self._apart_s = 0.0
        # Trials of this process, and the seconds that they took in all before their work began.
        self._starts, self._started_s = 0, 0.0
        self.learnt = 0
        """How often predictions have changed by what was timed."""
        # All are made when they are asked for, and made anew after further timings.
        self._cell_s: dict[tuple[str, int, tuple[str, ...] | None], float] = {}
        self._epochs_s: dict[tuple[Point, int, int], float] = {}
        self._predict: Callable[[Work], float] | None = None

    # --- what is timed --------------------------------------------------------------------------

    def on(self, event: Event) -> None:
        """Time the step that an event ends; what the store already held is none of this process."""
        self._note_probe(event)
        match event:
            case TrunkBegan(trunk=trunk):
                if self._boot_s is None:
                    self._boot_s = self._clock() - self._command_began
                self._step_began[trunk.key] = self._clock()
            case EpochEnded(trunk=trunk, report=report) if report.at >= 1000 * self._began:
                began = self._step_began.pop(trunk.key, None)
                if began is not None:
                    self._starts += 1
                    self._started_s += max(0.0, self._clock() - began - report.took_s)
                rungs = self._plan.rungs_to(trunk.recipe.epochs)
                work = epoch_work(
                    self._plan, point_of(trunk), report.epoch, trunk.recipe.batch_size, rungs
                )
                self._time(report.device, work, report.seconds)
                if report.probe_s:
                    fitting = probe_work(self._plan, point_of(trunk))
                    self._time(report.device, fitting, report.probe_s)
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

    def _note_probe(self, event: Event) -> None:
        """Take note that the probe which a trunk starts from is in the store by now."""
        match event:
            case EpochEnded(trunk=trunk) | TrunkPaused(trunk=trunk) | TrunkEnded(trunk=trunk):
                if not trunk.is_probed or (isinstance(event, TrunkEnded) and not event.reports):
                    return
                recipe, known = trunk.recipe, self._probed[point_of(trunk)]
                kind = fitted_class_weights(recipe.sampling, recipe.class_weights)
                if kind not in known:
                    known.add(kind)
                    self.learnt += 1

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Time the end of the sweep, after its last cell, while the block runs."""
        began, self._apart_s = self._clock(), 0.0
        yield
        self._closed_s = self._clock() - began - self._apart_s

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Leave the block out of what :meth:`closing` times: readings, or a refit.

        Those grow with the images and the net, and are predicted by themselves.
        """
        began = self._clock()
        yield
        self._apart_s += self._clock() - began

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
            self._predict = None
            self._cell_s.clear()
            self._epochs_s.clear()
            self.learnt += 1

    # --- what is predicted ----------------------------------------------------------------------

    @property
    def device(self) -> str:
        """Name the device that predictions are for; empty: none was timed."""
        return self._known.device

    @property
    def _known(self) -> DeviceTimings:
        """What was timed on that device before."""
        return _most_timed(self._devices.values()).kept

    def _seconds(self, work: Work) -> float:
        if self._predict is None:
            self._predict = lru_cache(maxsize=None)(self._predicted)
        return self._predict(work)

    def _predicted(self, work: Work) -> float:
        devices = self._devices.values()
        where_timed = [device for device in devices if device.speed.has_timed(work.kind)]
        return _most_timed(where_timed or devices).speed.seconds(work)

    @property
    def timed_s(self) -> float:
        """Seconds of all that this process has timed."""
        return sum(device.seconds for device in self._devices.values())

    @property
    def is_measured(self) -> bool:
        """Whether anything was timed; else seconds are those of a nominal device."""
        return any(device.speed.timings for device in self._devices.values())

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
        """Predict the epochs of a trunk after ``after``, up to ``until``, and its trial's start.

        With the linear probe that it begins with, while one of its point is yet to be fitted.
        """
        probe_s = self.probe_s(point) if after == 0 and self.probes_left(point) else 0.0
        return probe_s + self._stretch_s(point, after, until)

    def _stretch_s(self, point: Point, after: int, until: int) -> float:
        stretch = point, after, until
        if stretch not in self._epochs_s:
            epochs = range(after + 1, until + 1)
            self._epochs_s[stretch] = sum(self.epoch_s(point, epoch) for epoch in epochs)
        return self._epochs_s[stretch] + self.start_s

    def probe_s(self, point: Point) -> float:
        """Predict the fitting of a linear probe that trunks of a point start from."""
        return self._seconds(probe_work(self._plan, point))

    def probes_left(self, point: Point) -> int:
        """Count the probes that trunks of a point start from and that are yet to be fitted."""
        return max(0, probes(self._plan, point) - len(self._probed[point]))

    def cell_s(self, variant: str, test_res: int, arms: Sequence[str] | None = None) -> float:
        """Predict a cell; ``arms`` as in :func:`sweeps.planning.workload.cell_work`."""
        kind = variant, test_res, None if arms is None else tuple(arms)
        if kind not in self._cell_s:
            self._cell_s[kind] = self._seconds(cell_work(self._plan, variant, test_res, arms))
        return self._cell_s[kind]

    def reading_s(self, variant: str, test_res: int, images: int) -> float:
        """Predict the scoring of a net, tuned and untuned in one pass, on images."""
        return self._seconds(Work(passes=(image_pass(self._plan, variant, test_res, images),)))

    def refit_s(self, point: Point, test_res: int) -> float:
        """Predict a refit: a trunk to its end and one of its cells, on train + val."""
        counts, epochs = self._plan.counts, self._plan.epochs_at(point)
        more = 1 + counts["val"] / counts["train"]
        probe_s = self.probe_s(point) if probes(self._plan, point) else 0.0
        trunk_s = probe_s + self._stretch_s(point, 0, epochs)
        return more * (trunk_s + self.cell_s(point.variant, test_res))

    @property
    def start_s(self) -> float:
        """Seconds that a trial takes before its work begins."""
        if self._starts:
            return self._started_s / self._starts
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
        start_s = self.start_s if self._starts else None
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


def _most_timed(devices: Iterable[_Device]) -> _Device:
    """Return the device of which this process has timed most, the first where it has none.

    Without any, it is one of which nothing is known.
    """
    nothing = _Device(DeviceTimings(device="", on_gpu=True))
    return max(devices, key=lambda device: device.seconds, default=nothing)
