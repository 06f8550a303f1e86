"""Options of reading images: what is stored of them, and in which split."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.data.cache import SpaceRequest
from trainables.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Options of splitting, checking and storing images, and the room that they may take."""

    val_share: float = 0.15
    """Share of train that becomes val, where the data has no val split."""
    test_share: float = 0.15
    """Share of train that becomes test, where the data has no test split."""
    seed: int = 0
    """Salt of the split."""
    max_corrupt: float = 0.01
    """Share of unreadable files that is tolerated."""
    cache_side: int = 1024
    """px; images whose short side is larger are stored reduced to it."""
    cache_gb: float | None = None
    """GB that the cache folder may hold on a node; None: what the disk has."""

    def __post_init__(self) -> None:
        for name, share in (("val_share", self.val_share), ("test_share", self.test_share)):
            if not 0 < share < 1:
                raise UserError(f"`{name}` is {share}: give a share between 0 and 1.")
        if self.val_share + self.test_share >= 1:
            raise UserError(
                f"`val_share` {self.val_share} and `test_share` {self.test_share} leave nothing to"
                " train on: give shares that sum to less than 1."
            )
        if not 0 <= self.max_corrupt <= 1:
            raise UserError(f"`max_corrupt` is {self.max_corrupt}: give a share from 0 to 1.")
        if self.cache_side < 1:
            raise UserError(f"`cache_side` is {self.cache_side}: give at least 1 px.")
        if self.cache_gb is not None and self.cache_gb <= 0:
            raise UserError(f"`cache_gb` is {self.cache_gb}: give more than 0.")

    def space_request(self, total: int) -> SpaceRequest:
        """Word the request for room for that many images."""
        return SpaceRequest(
            what=f"{total} images at up to {self.cache_side} px", smaller="a smaller `cache_side`"
        )
