"""Say which trunks start from those of a smaller train resolution, beforehand and afterwards. Pure.

Training that begins at a low resolution and ends at a high one costs less than training at the high
one alone (Touvron et al., arXiv:1906.06423; Tan and Le, arXiv:2104.00298). Here what comes before
is trained anyway: it is a point of the sweep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sweeps.planning.grid import Point
from sweeps.planning.spec import SweepSpec
from trainables.training.trunk import Parent

NAMED = 6  # points that a sentence names


def cascade_to_be_in_words(
    spec: SweepSpec, cascading: Sequence[Point], points: int, samples: tuple[int, int]
) -> str:
    """Say where trunks are to start from others; empty: nowhere.

    Args:
        cascading: the points where they are.
        points: how many there are in all.
        samples: the trunks of a point, their repeats not counted: of those, and of the others.
    """
    if not cascading:
        return ""
    return (
        f"trunks of {len(cascading)} of {points} variants and train resolutions start from "
        "the best finished one of the variant at the next smaller, which they wait for, and take "
        f"{spec.cascade_epochs} epoch(s) in place of {spec.trunks.epochs}{_fewer(*samples)}"
    )


def _fewer(of_cascading: int, of_others: int) -> str:
    if of_cascading == of_others:
        return ""
    return f"; there are {of_cascading} of each in place of {of_others}"


def cascade_in_words(spec: SweepSpec, parents: Mapping[Point, Parent | None], points: int) -> str:
    """Say where trunks have started from others, and where in spite of ``--cascade`` not.

    Args:
        parents: what trunks have started from, by point, where they were to start from others.
        points: how many there are in all.

    Returns:
        Empty where no trunk was to start from another.
    """
    if not parents:
        return ""
    started = [f"{point} from {own.train_res}" for point, own in parents.items() if own is not None]
    others = [str(point) for point, own in parents.items() if own is None]
    words = (
        f"--cascade: trunks of {len(started)} of {points} variants and train "
        f"resolutions started from one of a smaller, for {spec.cascade_epochs} epoch(s) in place "
        f"of {spec.trunks.epochs}"
    )
    words += f" ({_named(started)})" if started else ""
    if others:
        words += (
            f"; those of {_named(others)} started from the weights as they come, as none of a "
            "smaller train resolution had finished by then"
        )
    return words


def _named(points: list[str]) -> str:
    more = len(points) - NAMED
    return ", ".join(points[:NAMED]) + (f" and {more} more" if more > 0 else "")
