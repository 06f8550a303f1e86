"""The journal of phase 1, read back: what was proposed, decided at rungs, and ended.

Lines that are damaged are left out. What they said is taken from the rest of the store as far as it
is there, and decided anew where it is not.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.planning.grid import Point, point_of
from sweeps.planning.plan import Plan
from trainables.errors import UserError
from trainables.storage.artifact_store import Store
from trainables.storage.damage import DamagedFileError
from trainables.storage.files import children, read_records
from trainables.storage.hashing import is_key
from trainables.storage.typed import checked
from trainables.training.recipe import Hyper
from trainables.training.trunk import TrunkSpec, TrunkStatus, hyper_from_json, read_trunk_spec

log = logging.getLogger("fixres")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A trunk was proposed, as trial ``index`` of the sweep."""

    index: int
    trunk: str  # key
    hyper: Hyper


@dataclass(frozen=True, kw_only=True)
class Decided:
    """It was decided at a rung whether a trunk goes on."""

    group: str
    trunk: str  # key
    epoch: int
    top1: float
    goes_on: bool


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A trunk has ended."""

    trunk: str  # key
    why: TrunkStatus


Line = Asked | Decided | Ended


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What a journal records of a plan, without lines that contradict the plan."""

    asked: Mapping[int, TrunkSpec]  # by index, ascending
    restored: Mapping[int, TrunkSpec]  # those of them that the journal has lost
    decided: Sequence[Decided]
    ended: Mapping[str, TrunkStatus]  # by key


def line_from_json(value: Mapping[str, Any]) -> Line:
    """Read a line; raises anything for what is none."""
    fields = {name: v for name, v in value.items() if name != "event"}
    match value["event"]:
        case "ask":
            line: Line = Asked(**{**fields, "hyper": hyper_from_json(fields["hyper"])})
        case "rung":
            line = Decided(**fields)
        case "end":
            line = Ended(**{**fields, "why": TrunkStatus(fields["why"])})
        case other:
            raise ValueError(f"no event {other}")
    if not is_key(checked(line).trunk):
        raise ValueError("its trunk is no key")
    if isinstance(line, Decided) and not 0 <= line.top1 <= 1:
        raise ValueError("its top1 is no share")
    return line


def read_journal(store: Store, plan: Plan) -> Recorded:
    """Read the journal of a plan's sweep; a warning tells what of it cannot be used.

    Raises:
        UserError: it is that of another sweep.
    """
    lines = read_records(store.journal, line_from_json)
    proposals = [line for line in lines if isinstance(line, Asked)]
    asked = {line.index: _trunk(plan, line) for line in proposals if _is_of(plan, line)}
    if proposals and not asked:
        raise UserError(
            f"{store.journal} is of another sweep (none of its {len(proposals)} trunks comes from "
            "these options and images): give those that it was begun with, or another place for "
            "this sweep."
        )
    known = {trunk.key for trunk in asked.values()}
    others = [line for line in lines if not isinstance(line, Asked)]
    lost = list(dict.fromkeys(line.trunk for line in others if line.trunk not in known))
    restored = dict(_found_in_store(store, plan, lost, set(asked)))
    asked = dict(sorted({**asked, **restored}.items()))
    known = {trunk.key for trunk in asked.values()}
    used = [line for line in others if line.trunk in known]
    spoilt = len(proposals) + len(restored) - len(asked) + len(others) - len(used)
    if spoilt or restored:
        log.warning(
            "%s: %d lines are of no trunk of this sweep and are left out; %d trunks whose lines "
            "are lost were found in the store",
            store.journal, max(0, spoilt), len(restored),
        )  # fmt: skip
    if not lines and children(store.trunks):
        log.warning(
            "%s holds no line, though trunks are in the store: what comes next is decided anew",
            store.journal,
        )
    return Recorded(
        asked=asked,
        restored=restored,
        decided=[line for line in used if isinstance(line, Decided)],
        ended={line.trunk: line.why for line in used if isinstance(line, Ended)},
    )


def point_at(plan: Plan, index: int) -> Point:
    """Return the point of a trial: each has its first trial before any has its second."""
    return plan.points[index % len(plan.points)]


def _trunk(plan: Plan, line: Asked) -> TrunkSpec:
    return plan.trunk(point_at(plan, line.index), line.hyper)


def _is_of(plan: Plan, line: Asked) -> bool:
    return 0 <= line.index < plan.trunks and _trunk(plan, line).key == line.trunk


def _found_in_store(
    store: Store, plan: Plan, keys: Sequence[str], taken: set[int]
) -> Iterator[tuple[int, TrunkSpec]]:
    """Find trunks whose proposals are lost by their specs, each with a free index of its point."""
    free = [index for index in range(plan.trunks) if index not in taken]
    for key in keys:
        try:
            spec = read_trunk_spec(store, key)
        except DamagedFileError:  # nothing is known of it
            continue
        point = point_of(spec)
        index = next((i for i in free if point_at(plan, i) == point), None)
        if index is not None and plan.trunk(point, spec.hyper).key == key:
            free.remove(index)
            yield index, spec
