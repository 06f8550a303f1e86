"""Decide which trunks of a point are trained on: asynchronous successive halving with promotion.

Li et al., arXiv:1810.05934 (MLSys 2020), Algorithm 2: a trunk waits at its rung, and is promoted to
the next one when it is among the best 1/reduction of all that came to its rung. Pure: it knows
neither time nor files, and the same arrivals in the same order give the same decisions.
"""

from __future__ import annotations


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
        self._rungs: list[dict[str, float]] = [{} for _ in range(rungs)]  # in order of arrival
        self.to_begin = trunks
        self.running: dict[str, int] = {}  # the rung that each runs to; after the last: the end
        self.waiting: dict[str, int] = {}  # the rung that each waits at
        self.has_finished = False  # one of them

    def begin(self, key: str) -> None:
        """Let a new trunk run to the first rung."""
        self.to_begin -= 1
        self.running[key] = 0

    def skip(self) -> None:
        """Take note that one trunk less will begin."""
        self.to_begin -= 1

    def arrive(self, key: str, value: float) -> None:
        """Let a trunk wait at the rung that it ran to.

        Args:
            value: by which trunks compare; the larger, the better. The first one counts, should a
                trunk be trained to the same rung again.
        """
        rung = self.running.pop(key)
        self._rungs[rung].setdefault(key, value)
        self.waiting[key] = rung

    def promote(self, key: str) -> None:
        """Let a trunk that waits run to the next rung."""
        self.running[key] = self.waiting.pop(key) + 1

    def repeat(self, key: str) -> None:
        """Let a trunk that waits run to the same rung again, as where its state is lost."""
        self.running[key] = self.waiting.pop(key)

    def leave(self, key: str, *, finished: bool = False) -> None:
        """Forget a trunk that ended, except for what it has shown at rungs."""
        self.running.pop(key, None)
        self.waiting.pop(key, None)
        self.has_finished |= finished

    def promotable(self) -> list[str]:
        """List the trunks to train on now: from the highest rung, there the best first."""
        found = [key for rung in self._highest_first for key in self._promotable_at(rung)]
        is_settled = not (found or self.to_begin or self.running or self.has_finished)
        return self.in_line()[:1] if is_settled else found

    def kept(self) -> set[str]:
        """Name the trunks that wait and may yet be promoted: of the others no state is needed.

        Each trunk that comes to a rung lets at most one of it be promoted, so that only so many
        can come to the next. Until one has finished, the next in line is kept in its reserve.
        """
        kept = set[str]()
        if not self.has_finished:
            leads = any(rung > 0 for rung in self.running.values())
            kept.update(self.in_line()[: 1 if leads else 2])
        running = list(self.running.values())
        coming = self.to_begin + running.count(0)
        for rung, values in enumerate(self._rungs):
            kept.update(self._waiting_in_best(rung, len(values) + coming))
            coming += len(self._promotable_at(rung)) + running.count(rung + 1)
        return kept

    def in_line(self) -> list[str]:
        """List all that wait: the farthest first, of those at one rung the best."""
        return [k for r in self._highest_first for k in self._ranked(r) if self.waiting.get(k) == r]

    def rung_of(self, key: str) -> int | None:
        """Return the last rung that a trunk came to; None: none yet."""
        rungs = (rung for rung in self._highest_first if key in self._rungs[rung])
        return next(rungs, None)

    @property
    def _highest_first(self) -> range:
        return range(len(self._rungs) - 1, -1, -1)

    def _promotable_at(self, rung: int) -> list[str]:
        return self._waiting_in_best(rung, len(self._rungs[rung]))

    def _waiting_in_best(self, rung: int, among: int) -> list[str]:
        """List those that wait at a rung and are in the best 1/reduction of ``among`` trunks."""
        best = self._ranked(rung)[: among // self._reduction]
        return [key for key in best if self.waiting.get(key) == rung]

    def _ranked(self, rung: int) -> list[str]:
        """Rank all that came to a rung: of equal ones, the first that came is the better."""
        values = self._rungs[rung]
        return sorted(values, key=values.__getitem__, reverse=True)
