"""Trunks and cells whose trials have all failed: what is told of them until they are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sweeps.planning.spec import with_options

NAMED = 3  # failures that a sentence names


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A trunk or cell that failed, and is tried again by the next start of the sweep."""

    kind: Literal["trunk", "cell"]
    name: str
    """In words: "lite0 at 48 px, lr 0.003", "lite0 48 -> 64 px, crop 1.0"."""
    key: str
    """Names its folder in the store, where the whole trace is."""
    reason: str
    """The last line of the trace."""


def last_line(trace: str) -> str:
    """Return the last line of a traceback that is not empty, in the words of the command line."""
    lines = (line.strip() for line in reversed(trace.splitlines()))
    return with_options(next((line for line in lines if line), ""))


def counts_in_words(failures: Sequence[Failure]) -> str:
    """Count them: "1 trunk and 2 cells"."""
    counts = Counter(failure.kind for failure in failures)
    return " and ".join(
        f"{counts[kind]} {kind}{'s' if counts[kind] > 1 else ''}"
        for kind in ("trunk", "cell")
        if counts[kind]
    )


def failures_in_words(failures: Sequence[Failure]) -> str:
    """Say how many failed, which, and why."""
    named = [f"{f.kind} {f.name} ({f.reason.rstrip('. ')})" for f in failures[:NAMED]]
    more = len(failures) - len(named)
    which = ", ".join([*named, *([f"{more} more"] if more else [])])
    return f"{counts_in_words(failures)} failed, and the results are without them: {which}"
