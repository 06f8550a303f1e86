"""Halving within a point: the paper's algorithm, and what is added for points of few trunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import floor, log2

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.planning.workload import most_waiting
from sweeps.scheduling.halving import Halving

END = 1_000_000  # trunks that never run out, as in the paper
Draws = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9)), max_size=120)
unhurried = settings(deadline=None)
SHAPES = st.tuples(st.integers(0, 4), st.integers(2, 4))  # rungs before the end, reduction


@dataclass
class Paper:
    """Algorithm 2 of Li et al. word by word, with losses, as ``get_job`` and what it is told.

    Rung k of the paper holds what was trained for r eta^k; its last rung, K, is the end.
    """

    top_rung: int
    eta: int
    rungs: dict[int, dict[str, float]] = field(default_factory=dict)
    promoted: set[tuple[str, int]] = field(default_factory=set)
    drawn: int = 0

    def get_job(self) -> tuple[str, int]:
        for k in reversed(range(self.top_rung)):
            rung_k = self.rungs.get(k, {})
            candidates = self.top_k(rung_k, floor(len(rung_k) / self.eta))
            promotable = [t for t in candidates if (t, k) not in self.promoted]
            if promotable:
                self.promoted.add((promotable[0], k))
                return promotable[0], k + 1
        self.drawn += 1
        return f"t{self.drawn - 1}", 0

    def top_k(self, rung: dict[str, float], count: int) -> list[str]:
        ranked: list[str] = []
        for _ in range(count):
            left = [t for t in rung if t not in ranked]
            ranked.append(min(left, key=lambda t: rung[t]))
        return ranked

    def update(self, configuration: str, k: int, loss: float) -> None:
        self.rungs.setdefault(k, {})[configuration] = loss


class Ours:
    """Halving, asked as the paper's algorithm is."""

    def __init__(self, rungs: int, reduction: int, trunks: int = END):
        self.halving = Halving(rungs=rungs, reduction=reduction, trunks=trunks)
        self.rungs, self.drawn = rungs, 0

    def get_job(self) -> tuple[str, int]:
        halving = self.halving
        if promotable := halving.promotable():
            halving.promote(promotable[0])
            return promotable[0], halving.running[promotable[0]]
        halving.begin(key := f"t{self.drawn}")
        self.drawn += 1
        return key, 0

    def update(self, key: str, rung: int, loss: float) -> None:
        if rung == self.rungs:
            self.halving.leave(key, finished=True)
        else:
            self.halving.arrive(key, -loss)


@unhurried
@given(shape=SHAPES, workers=st.integers(1, 6), draws=Draws)
def test_decides_as_the_paper_does(
    shape: tuple[int, int], workers: int, draws: list[tuple[int, int]]
) -> None:
    """Whenever a worker is free, and whichever job ends next, with ties among the losses."""
    paper, ours = Paper(*shape), Ours(*shape)
    jobs: list[tuple[str, int]] = []
    for which, loss in draws:
        while len(jobs) < workers:
            jobs.append(paper.get_job())
            assert ours.get_job() == jobs[-1]
        job = jobs.pop(which % workers)
        paper.update(*job, loss)
        ours.update(*job, loss)


# --- points of few trunks -----------------------------------------------------------------------


@dataclass
class Run:
    """What became of a point's trunks, trained by so many workers to the last decision."""

    halving: Halving
    rungs: int
    began: list[str] = field(default_factory=list)
    promoted: list[tuple[str, int]] = field(default_factory=list)  # from which rung
    finished: list[str] = field(default_factory=list)
    waited: int = 0  # the most that waited at a time, as far as they are kept

    def steps(
        self, workers: int, trunks: int, draws: Iterator[tuple[int, int]], fails: int = 99
    ) -> None:
        """Draw which job ends next and its value; a job in ``fails`` is the trunk's last."""
        halving = self.halving
        while True:
            while len(halving.running) < workers:
                if promotable := halving.promotable():
                    key = promotable[0]
                    self.promoted.append((key, halving.waiting[key]))
                    halving.promote(key)
                elif len(self.began) < trunks:
                    self.began.append(f"t{len(self.began)}")
                    halving.begin(self.began[-1])
                else:
                    break
            if not halving.running:
                return
            which, value = next(draws)
            key = sorted(halving.running)[which % len(halving.running)]
            if (which + value) % fails == fails - 1:
                halving.leave(key)
            elif halving.running[key] == self.rungs:
                self.finished.append(key)
                halving.leave(key, finished=True)
            else:
                halving.arrive(key, value)
            for lost in halving.waiting.keys() - halving.kept():
                halving.leave(lost)
            self.waited = max(self.waited, len(halving.waiting))


def run(
    shape: tuple[int, int], trunks: int, workers: int, draws: list[tuple[int, int]], fails: int = 99
) -> Run:
    def endless() -> Iterator[tuple[int, int]]:
        number = 0
        while True:
            yield draws[number % len(draws)] if draws else (0, 0)
            number += 1

    rungs, reduction = shape
    made = Run(Halving(rungs=rungs, reduction=reduction, trunks=trunks), rungs)
    made.steps(workers, trunks, endless(), fails)
    return made


FEW = st.integers(1, 12)


@unhurried
@given(shape=SHAPES, trunks=FEW, workers=st.integers(1, 6), draws=Draws)
def test_all_begin_and_at_least_one_goes_to_the_end(
    shape: tuple[int, int], trunks: int, workers: int, draws: list[tuple[int, int]]
) -> None:
    made = run(shape, trunks, workers, draws)
    assert len(made.began) == trunks and made.finished
    assert not made.halving.waiting and not made.halving.running, "nothing is left open"


@unhurried
@given(shape=SHAPES, trunks=FEW, workers=st.integers(1, 6), draws=Draws)
def test_what_is_no_longer_kept_would_never_have_been_promoted(
    shape: tuple[int, int], trunks: int, workers: int, draws: list[tuple[int, int]]
) -> None:
    """Dropping it at once, or never, decides the same."""

    class Hoarder(Halving):
        def kept(self) -> set[str]:
            return set(self.waiting)

    dropped = run(shape, trunks, workers, draws)
    rungs, reduction = shape
    hoarding = Run(Hoarder(rungs=rungs, reduction=reduction, trunks=trunks), rungs)
    numbers = iter(range(10**6))
    hoarding.steps(
        workers, trunks, iter(lambda: draws[next(numbers) % len(draws)] if draws else (0, 0), None)
    )
    assert (dropped.promoted, dropped.finished) == (hoarding.promoted, hoarding.finished)


@unhurried
@given(shape=SHAPES, trunks=FEW, workers=st.integers(1, 6), draws=Draws, fails=st.integers(2, 9))
def test_a_point_whose_leader_fails_sends_its_reserve(
    shape: tuple[int, int],
    trunks: int,
    workers: int,
    draws: list[tuple[int, int]],
    fails: int,
) -> None:
    """None goes to the end only where all that were ever promoted failed, the reserve among them,
    or none came to a rung."""
    made = run(shape, trunks, workers, draws, fails)
    assert len(made.began) == trunks
    came = [key for key in made.began if made.halving.rung_of(key) is not None]
    if not made.finished and shape[0]:
        assert len({key for key, _ in made.promoted}) >= min(2, len(came))


@unhurried
@given(shape=SHAPES, trunks=FEW, workers=st.integers(1, 6), draws=Draws, fails=st.integers(2, 99))
def test_no_more_wait_than_are_planned_for(
    shape: tuple[int, int], trunks: int, workers: int, draws: list[tuple[int, int]], fails: int
) -> None:
    rungs, reduction = shape
    made = run(shape, trunks, workers, draws, fails)
    assert made.waited <= most_waiting(rungs=rungs, reduction=reduction, trunks=trunks)


@pytest.mark.parametrize(
    ("trunks", "rungs", "reduction", "at_rungs"),
    [
        (4, 3, 3, [4, 1, 1, 1]),  # epochs 2, 6, 18, 20: one in three of 4 goes on, then the best
        (8, 3, 3, [8, 2, 1, 1]),
        (9, 2, 3, [9, 3, 1]),
        (1, 3, 3, [1, 1, 1, 1]),
        (2, 1, 3, [2, 1]),
        (6, 0, 3, [6]),
    ],
)
def test_the_best_of_few_are_trained_on(
    trunks: int, rungs: int, reduction: int, at_rungs: list[int]
) -> None:
    """All at a time, so that every rung is whole before any of it is promoted."""
    halving = Halving(rungs=rungs, reduction=reduction, trunks=trunks)
    keys = [f"t{number}" for number in range(trunks)]
    for key in keys:
        halving.begin(key)
    counted = []
    while halving.running:
        counted.append(len(halving.running))
        for key in list(halving.running):
            if halving.running[key] == rungs:
                halving.leave(key, finished=True)
            else:
                halving.arrive(key, keys.index(key))
        promoted = halving.promotable()
        assert promoted == keys[::-1][: len(promoted)], "the best of them, the best first"
        for key in promoted:
            halving.promote(key)
    assert counted == at_rungs


def test_state_that_cannot_be_promoted_any_more_is_named_at_once() -> None:
    halving = Halving(rungs=2, reduction=3, trunks=6)
    for number, value in enumerate((0.5, 0.6, 0.7, 0.1)):
        halving.begin(f"t{number}")
        halving.arrive(f"t{number}", value)
    assert halving.promotable() == ["t2"]
    assert halving.kept() == {"t2", "t1"}, "at most two of six are ever promoted from here"
    halving.promote("t2")
    assert halving.kept() == {"t1"}


def test_a_trunk_whose_state_is_lost_runs_to_its_rung_again_and_is_compared_as_before() -> None:
    halving = Halving(rungs=2, reduction=2, trunks=2)
    for key, value in (("a", 0.5), ("b", 0.4)):
        halving.begin(key)
        halving.arrive(key, value)
    halving.repeat("a")
    assert halving.promotable() == [] and halving.running == {"a": 0}
    halving.arrive("a", 0.3)
    assert halving.promotable() == ["a"]


# --- many trunks --------------------------------------------------------------------------------


class Plain:
    """What may go on and what is kept, by sorting all that came whenever it is asked."""

    def __init__(self, halving: Halving, reduction: int):
        self.halving, self.reduction = halving, reduction
        self.came: dict[int, dict[str, int]] = {}  # value by rung and key, in order of arrival

    def arrive(self, key: str, value: int) -> None:
        self.came.setdefault(self.halving.running[key], {}).setdefault(key, value)

    def best_that_wait(self, rung: int, among: int) -> list[str]:
        came = self.came.get(rung, {})
        best = sorted(came, key=lambda k: -came[k])[: among // self.reduction]
        return [key for key in best if self.halving.waiting.get(key) == rung]

    def in_line(self) -> list[str]:
        rungs = sorted(self.came, reverse=True)
        return [key for rung in rungs for key in self.best_that_wait(rung, 10**9)]

    def promotable(self) -> list[str]:
        halving, rungs = self.halving, sorted(self.came, reverse=True)
        found = [k for r in rungs for k in self.best_that_wait(r, len(self.came[r]))]
        may_come = found or halving.to_begin or halving.running or halving.has_finished
        return found if may_come else self.in_line()[:1]

    def kept(self, rungs: int) -> set[str]:
        halving, running = self.halving, list(self.halving.running.values())
        leads = any(rung > 0 for rung in running)
        kept = set() if halving.has_finished else set(self.in_line()[: 1 if leads else 2])
        coming = halving.to_begin + running.count(0)
        for rung in range(rungs):
            came = len(self.came.get(rung, {}))
            kept.update(self.best_that_wait(rung, came + coming))
            coming += len(self.best_that_wait(rung, came)) + running.count(rung + 1)
        return kept


Steps = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4), st.integers(0, 7)), max_size=150)


@unhurried
@given(shape=SHAPES, trunks=st.integers(1, 40), steps=Steps)
def test_decides_as_sorting_all_that_came_does(
    shape: tuple[int, int], trunks: int, steps: list[tuple[int, int, int]]
) -> None:
    """Whatever happens in whatever order: trunks fail, lose their state, and are equally good."""
    rungs, reduction = shape
    halving = Halving(rungs=rungs, reduction=reduction, trunks=trunks)
    plain, begun = Plain(halving, reduction), 0
    for what, value, which in steps:
        running, waiting = sorted(halving.running), sorted(halving.waiting)
        if what < 3 and halving.to_begin:
            halving.begin(f"t{begun}")
            begun += 1
        elif what < 7 and running:
            key = running[which % len(running)]
            if halving.running[key] == rungs:
                halving.leave(key, finished=True)
            else:
                plain.arrive(key, value)
                halving.arrive(key, value)
        elif what == 7 and (promotable := halving.promotable()):
            halving.promote(promotable[which % len(promotable)])
        elif what == 8 and waiting:
            halving.repeat(waiting[which % len(waiting)])
        elif what == 9 and (open_ := [*running, *waiting]):
            halving.leave(open_[which % len(open_)])
        assert halving.promotable() == plain.promotable()
        assert halving.kept() == plain.kept(rungs)
        assert set(halving.lost()) == halving.waiting.keys() - halving.kept()


class Counted(float):
    """A value that counts how often it is compared."""

    compared = 0

    def __neg__(self) -> Counted:
        return Counted(-float(self))

    def __lt__(self, other: float) -> bool:
        Counted.compared += 1
        return float(self) < float(other)

    __hash__ = float.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return float(self) == other


def test_a_trunk_more_is_compared_with_few_of_many() -> None:
    """Sorting all at each arrival would compare each with each, many times over."""
    halving = Halving(rungs=1, reduction=3, trunks=5_000)
    for number in range(5_000):
        key = f"t{number}"
        halving.begin(key)
        halving.arrive(key, Counted(number * 7919 % 5_000))
        for lost in halving.lost():
            halving.leave(lost)
        for best in halving.promotable():
            halving.promote(best)
            halving.leave(best, finished=True)
    assert Counted.compared < 5_000 * 20 * log2(5_000)
