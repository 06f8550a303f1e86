"""Decide which trunks go on at a rung: Ray's ASHA, one for each variant, with a memory.

Among all variants, ASHA would let only the largest go on. Its state follows from its past
decisions: given them again in their order, it is in the same state.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler


class GroupedAsha:
    """ASHA (Li et al., arXiv:1810.05934, in Ray's stopping form), one for each group.

    Args:
        epochs: epochs of a trunk that is not cut.
        grace_epochs: the first rung.
        reduction: at each rung, the best 1/reduction go on.
    """

    def __init__(self, *, epochs: int, grace_epochs: int, reduction: int):
        self._make: Callable[[], AsyncHyperBandScheduler] = lambda: AsyncHyperBandScheduler(
            time_attr="epoch",
            metric="value",
            mode="max",
            max_t=epochs,
            grace_period=min(grace_epochs, epochs),
            reduction_factor=reduction,
        )
        self._groups: dict[str, AsyncHyperBandScheduler] = {}
        self._known: set[str] = set()
        self._decided: dict[tuple[str, int], bool] = {}

    def recall(self, key: str, epoch: int) -> bool | None:
        """Return whether the trunk ``key`` went on after ``epoch``; None: it is not decided yet."""
        return self._decided.get((key, epoch))

    def should_continue(self, group: str, key: str, epoch: int, value: float) -> bool:
        """Decide whether the trunk ``key`` goes on after ``epoch``.

        Args:
            value: the rung metric, a share.
        """
        self._decided[key, epoch] = self._decide(group, key, epoch, value)
        return self._decided[key, epoch]

    def remember(self, group: str, key: str, epoch: int, value: float, went_on: bool) -> None:
        """Restore a decision of an earlier process; call in the order of the decisions."""
        self._decide(group, key, epoch, value)
        self._decided[key, epoch] = went_on

    def _decide(self, group: str, key: str, epoch: int, value: float) -> bool:
        if group not in self._groups:
            self._groups[group] = self._make()
        scheduler = self._groups[group]
        trial: Any = SimpleNamespace(trial_id=key)  # ASHA reads nothing else of a trial.
        controller: Any = None  # ASHA makes no use of it.
        if key not in self._known:
            self._known.add(key)
            scheduler.on_trial_add(controller, trial)
        decision = scheduler.on_trial_result(controller, trial, {"epoch": epoch, "value": value})
        return bool(decision == TrialScheduler.CONTINUE)
