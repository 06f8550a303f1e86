"""Which trunks are repeated, and how often: trained again with other seeds, all else alike. Pure.

What is repeated are the trunks of a point that are fixed, once it is known which, and only those
that were trained to their end. The first training counts as one of them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace

from trainables.training.trunk import TrunkSpec


def repeats_to_begin(
    finished: Sequence[TrunkSpec], times: int, begun: Container[str]
) -> list[TrunkSpec]:
    """List the repeats that have not begun: each trunk's first before the second of any.

    Args:
        finished: the trunks that are repeated, the best first.
        times: how often each is trained in all.
        begun: keys of trunks that have begun.
    """
    repeats = (replace(trunk, repeat=number) for number in range(1, times) for trunk in finished)
    return [trunk for trunk in repeats if trunk.key not in begun]


def with_repeats(firsts: Iterable[TrunkSpec], repeats: Sequence[TrunkSpec]) -> Iterator[TrunkSpec]:
    """Put behind each trunk those that repeat it, in the order of their numbers."""
    for first in firsts:
        yield first
        own = (trunk for trunk in repeats if trunk.configuration == first.key)
        yield from sorted(own, key=lambda trunk: trunk.repeat)
