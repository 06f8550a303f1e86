"""Begin work ahead of use, and have what it makes in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def made_ahead(begun: Iterator[Callable[[], T]], *, ahead: int) -> Iterator[T]:
    """Give what is made, in order, with that of some after it begun.

    Args:
        begun: begins the next one's work as it is asked for it, and gives what waits for its end.
        ahead: how many are begun beside the one that is waited for.
    """
    pending = deque(islice(begun, 1 + ahead))
    while pending:
        made = pending.popleft()()
        pending.extend(islice(begun, 1))
        yield made
