"""Options of reading images: what is stored of them, and in which split."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from trainables.data.cache import SpaceRequest
from trainables.errors import UserError
from trainables.sources.class_names import ClassOrder
from trainables.sources.layout import LayoutChoice

MAX_SPLIT_SHARE = 0.5  # A split that is carved off is smaller than what is left to train on.
MAX_HELD_OUT_SHARE = 0.8  # of val and test together


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Options of splitting, checking and storing images, and the room that they may take."""

    val_share: float = 0.15
    """Share of train that becomes val, where the data has no val split."""
    test_share: float = 0.15
    """Share of train that becomes test, where the data has no test split."""
    pick_share: float | None = None
    """Share of train that becomes val where the data has val or test alone, which is test then."""
    group_by: str | None = None
    """What keeps images in one split: a column of tables, or a pattern over the paths of files."""
    seed: int = 0
    """Salt of the split."""
    max_corrupt: float = 0.01
    """Share of unreadable files that is tolerated."""
    cache_side: int = 1024
    """px; images whose short side is larger are stored reduced to it."""
    cache_gb: float | None = None
    """GB that the cache folder may hold on a node; None: what the disk has."""
    layout: LayoutChoice = "auto"
    """Whether class folders or tables hold the images; "auto" recognises it, or refuses."""
    class_order: ClassOrder = "string"
    """Order of the classes: as strings, as timm orders folders ("natural"), or that of names."""

    def __post_init__(self) -> None:
        for name in ("val_share", "test_share"):
            share = getattr(self, name)
            if not 0 < share < MAX_SPLIT_SHARE:
                raise _out_of_bounds(name, share, f"above 0 to below {MAX_SPLIT_SHARE}")
        if self.pick_share is not None and not 0 < self.pick_share < MAX_SPLIT_SHARE:
            raise _out_of_bounds(
                "pick_share", self.pick_share, f"above 0 to below {MAX_SPLIT_SHARE}"
            )
        if self.group_by is not None and not self.group_by.strip():
            raise UserError(
                "`group_by` is empty: give a column of tables, or a pattern for files, or none."
            )
        if self.val_share + self.test_share > MAX_HELD_OUT_SHARE:
            raise UserError(
                f"`val_share` {self.val_share} and `test_share` {self.test_share} leave too little "
                f"to train on: give {MAX_HELD_OUT_SHARE} together at most."
            )
        if not 0 <= self.max_corrupt <= 1:
            raise _out_of_bounds("max_corrupt", self.max_corrupt, "from 0 to 1")
        if self.cache_side < 1:
            raise _out_of_bounds("cache_side", self.cache_side, "at least 1")
        if self.cache_gb is not None and not 0 < self.cache_gb < inf:
            raise _out_of_bounds("cache_gb", self.cache_gb, "more than 0")

    def space_request(self, total: int) -> SpaceRequest:
        """Word the request for room for that many images."""
        return SpaceRequest(
            what=f"{total} images at up to {self.cache_side} px", smaller="a smaller `cache_side`"
        )


def _out_of_bounds(name: str, value: float, allowed: str) -> UserError:
    return UserError(f"`{name}` {value} is out of bounds: give {allowed}.")
