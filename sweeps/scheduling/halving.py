"""Decide which trunks of a point are trained on: asynchronous successive halving with promotion.

Li et al., arXiv:1810.05934 (MLSys 2020), Algorithm 2: a trunk waits at its rung, and is promoted to
the next one when it is among the best 1/reduction of all that came to its rung. Pure: it knows
neither time nor files, and the same arrivals in the same order give the same decisions.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from itertools import chain, islice

Place = tuple[float, int, str]  # of a trunk at a rung: minus its value, when it came, its key


class _Rung:
    """The trunks that came to a rung, the best first; of equal ones, the first that came."""

    def __init__(self) -> None:
        self.place_of: dict[str, Place] = {}  # by key
        self._ranked: list[Place] = []
        self._waiting: list[Place] = []  # those of them that wait here
        self.running = 0  # how many run to it

    def __len__(self) -> int:
        return len(self._ranked)

    def arrive(self, key: str, value: float) -> None:
        """Let a trunk wait here; where it has been here before, the value of then counts."""
        if key not in self.place_of:
            self.place_of[key] = (-value, len(self._ranked), key)
            insort(self._ranked, self.place_of[key])
        insort(self._waiting, self.place_of[key])

    def leave(self, key: str) -> None:
        """Let a trunk wait here no longer."""
        del self._waiting[bisect_left(self._waiting, self.place_of[key])]

    def waiting(self, count: int) -> list[str]:
        """List the first ``count`` of those that wait."""
        return [key for _, _, key in self._waiting[:count]]

    def best(self, count: int) -> list[str]:
        """List the best ``count`` of all that came."""
        return [key for _, _, key in self._ranked[:count]]

    def waiting_behind(self, best: int) -> list[str]:
        """List those that wait and are not among the ``best`` of all that came."""
        return [key for _, _, key in self._waiting[self.count_waiting(best) :]]

    def count_waiting(self, best: int) -> int:
        """Count those that wait and are among the ``best`` of all that came."""
        if best >= len(self._ranked):
            return len(self._waiting)
        return bisect_right(self._waiting, self._ranked[best - 1]) if best > 0 else 0


class Halving:
    """The rungs of one point. Trunks are named by their keys.

    A trunk runs to a rung or to its end, waits at a rung, or has left. Beyond the paper, which has
    no end of new trunks, one of a point's trunks goes to the end: where nothing else would go on,
    the best one that came farthest does, until a trunk has finished.

    Args:
        rungs: how many there are before the end.
        reduction: the best 1/reduction at a rung are promoted.
        trunks: how many will begin.
    """

    def __init__(self, *, rungs: int, reduction: int, trunks: int):
        self._reduction = reduction
        self._rungs = [_Rung() for _ in range(rungs)]
        self.to_begin = trunks
        self.running: dict[str, int] = {}  # the rung that each runs to; after the last: the end
        self.waiting: dict[str, int] = {}  # the rung that each waits at
        self.has_finished = False  # one of them

    def begin(self, key: str) -> None:
        """Let a new trunk run to the first rung."""
        self.to_begin -= 1
        self._run(key, 0)

    def begin_repeat(self, key: str) -> None:
        """Let a trunk that repeats one that has finished run past all rungs to the end."""
        self._run(key, len(self._rungs))

    def skip(self) -> None:
        """Take note that one trunk less will begin."""
        self.to_begin -= 1

    def arrive(self, key: str, value: float) -> None:
        """Let a trunk wait at the rung that it ran to.

        Args:
            value: by which trunks compare; the larger, the better. The first one counts, should a
                trunk be trained to the same rung again.
        """
        rung = self._stop(key)
        self._rungs[rung].arrive(key, value)
        self.waiting[key] = rung

    def promote(self, key: str) -> None:
        """Let a trunk that waits run to the next rung."""
        self._run(key, self._go(key) + 1)

    def repeat(self, key: str) -> None:
        """Let a trunk that waits run to the same rung again, as where its state is lost."""
        self._run(key, self._go(key))

    def leave(self, key: str, *, finished: bool = False) -> None:
        """Forget a trunk that ended, except for what it has shown at rungs."""
        if key in self.running:
            self._stop(key)
        if key in self.waiting:
            self._go(key)
        self.has_finished |= finished

    def _run(self, key: str, rung: int) -> None:
        self.running[key] = rung
        if rung < len(self._rungs):
            self._rungs[rung].running += 1

    def _stop(self, key: str) -> int:
        """Let a trunk run no longer; returns the rung that it ran to."""
        rung = self.running.pop(key)
        if rung < len(self._rungs):
            self._rungs[rung].running -= 1
        return rung

    def _go(self, key: str) -> int:
        """Let a trunk wait no longer; returns the rung that it waited at."""
        rung = self.waiting.pop(key)
        self._rungs[rung].leave(key)
        return rung

    def promotable(self) -> list[str]:
        """List the trunks to train on now: from the highest rung, there the best first."""
        found = [key for rung in self._highest_first for key in self._promotable_at(rung)]
        is_settled = not (found or self.to_begin or self.running or self.has_finished)
        return self._first_in_line(1) if is_settled else found

    def lost(self) -> list[str]:
        """List the trunks that wait and can no longer be promoted: their state is not needed.

        Each trunk that comes to a rung lets at most one of it be promoted, so that only so many
        can come to the next. Until one has finished, the next in line is kept in its reserve.
        """
        lost: list[str] = []
        coming = self.to_begin
        for rung in self._rungs:
            coming += rung.running
            lost += rung.waiting_behind((len(rung) + coming) // self._reduction)
            coming += rung.count_waiting(len(rung) // self._reduction)
        if self.has_finished or not lost:
            return lost
        leads = len(self.running) > self._rungs[0].running
        in_line = self._first_in_line(1 if leads else 2)
        return [key for key in lost if key not in in_line]

    def kept(self) -> set[str]:
        """Name the trunks that wait and may yet be promoted."""
        return self.waiting.keys() - self.lost()

    def in_line(self) -> list[str]:
        """List all that wait: the farthest first, of those at one rung the best."""
        return self._first_in_line(len(self.waiting))

    def rung_of(self, key: str) -> int | None:
        """Return the last rung that a trunk came to; None: none yet."""
        rungs = (rung for rung in self._highest_first if key in self._rungs[rung].place_of)
        return next(rungs, None)

    @property
    def _highest_first(self) -> range:
        return range(len(self._rungs) - 1, -1, -1)

    def _promotable_at(self, rung: int) -> list[str]:
        """List those that wait at a rung and are in the best 1/reduction of all that came to it."""
        own = self._rungs[rung]
        return own.waiting(own.count_waiting(len(own) // self._reduction))

    def _first_in_line(self, count: int) -> list[str]:
        """List the first of all that wait: the farthest first, of those at one rung the best."""
        by_rung = (self._rungs[rung].waiting(count) for rung in self._highest_first)
        return list(islice(chain.from_iterable(by_rung), count))
