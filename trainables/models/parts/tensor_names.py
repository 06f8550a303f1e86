"""Name the tensors that FixRes adapts: of a classifier, and of the last norm before it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Part = Literal["statistics", "affine", "classifier"]
STATISTICS: Final = "statistics"
AFFINE: Final = "affine"
CLASSIFIER: Final = "classifier"
_SUFFIXES: dict[str, tuple[str, str]] = {
    STATISTICS: ("running_mean", "running_var"),
    AFFINE: ("weight", "bias"),
    CLASSIFIER: ("weight", "bias"),
}


@dataclass(frozen=True, kw_only=True)
class TensorNames:
    """Where a net has the modules that FixRes adapts."""

    norm: str  # the last one, as named_modules() has it
    classifier: str
    has_statistics: bool = True  # of all images; a layer norm has none

    def of(self, *parts: Part) -> tuple[str, ...]:
        """List the tensors of these parts, in their order; none of a part that the net lacks."""
        return tuple(
            f"{self.classifier if part == CLASSIFIER else self.norm}.{suffix}"
            for part in parts
            if self.has_statistics or part != STATISTICS
            for suffix in _SUFFIXES[part]
        )


EFFICIENTNET = TensorNames(norm="bn2", classifier="classifier")


def statistics_in(names: Iterable[str]) -> tuple[str, ...]:
    """Find mean and variance among the tensors that FixRes adapts; none: they are not there."""
    return tuple(
        name for suffix in _SUFFIXES[STATISTICS] for name in names if name.endswith(f".{suffix}")
    )
