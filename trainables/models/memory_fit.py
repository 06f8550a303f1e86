"""Search for the largest batch that fits into a device's memory, by halving."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from trainables.errors import SweepError
from trainables.models.device import free_cache
from trainables.models.out_of_memory import running_out_told

Made = TypeVar("Made")


class MemoryFit:
    """How many images at once fit into memory, as far as is known: less each time that it ran out.

    Attributes:
        batch_size: images at once, at most; None: whole batches, as memory has not run out yet.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        minimum: int,
        error: str,
        batch_size: int | None = None,
    ):
        """Begin with whole batches, or where an earlier search has ended.

        Args:
            minimum: the fewest images that can be tried at once.
            error: a sentence for when they do not fit either.
        """
        self.batch_size = batch_size
        self._device, self._minimum, self._error = device, minimum, error

    def halve(self, whole: int) -> None:
        """Go on with half as many images at once, as memory has run out; on a GPU, free its cache.

        Args:
            whole: images of the batch that was tried, not split.

        Raises:
            SweepError: the fewest images have been tried.
        """
        free_cache(self._device)
        tried = min(self.batch_size or whole, whole)
        if tried <= self._minimum:
            raise SweepError(self._error)
        self.batch_size = max(self._minimum, -(-tried // 2))

    def grow(self, whole: int) -> None:
        """Go on with twice as many images at once: what lacked memory may have it again.

        Args:
            whole: images of a batch that is not split.
        """
        if self.batch_size is not None:
            self.batch_size = 2 * self.batch_size if 2 * self.batch_size < whole else None

    def run(self, work: Callable[[int], Made], whole: int) -> Made:
        """Do work, and do it again with half as many images at once each time that memory runs out.

        Args:
            work: is given how many images it may have on the device at once.
            whole: the most that it is given.

        Raises:
            SweepError: the fewest images have been tried.
        """
        while True:
            try:
                with running_out_told():
                    return work(min(self.batch_size or whole, whole))
            except torch.OutOfMemoryError:  # not bound to a name: its trace would keep the memory
                pass
            self.halve(whole)
