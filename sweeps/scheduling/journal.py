"""The journal of phase 1, read back: what was proposed, compared at rungs, promoted, and ended.

Lines that are damaged are left out. What they said is taken from the rest of the store as far as it
is there, and decided anew where it is not.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sweeps.planning.grid import Point, point_of
from sweeps.planning.options.hyperparameters import hyperparameters
from sweeps.planning.plan import Plan
from sweeps.planning.search import Draw, draw_of
from trainables.errors import UserError
from trainables.storage.artifact_store import Store
from trainables.storage.damage import DamagedFileError
from trainables.storage.files import children, read_records
from trainables.storage.hashing import is_key
from trainables.storage.typed import checked
from trainables.training.trunk import Parent, TrunkSpec, TrunkStatus, read_trunk_spec

log = logging.getLogger("fixres")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A trunk was proposed at a point.

    Journals of 0.1.0 name no point: there trial ``index`` of the sweep was at point ``index``
    modulo the number of points, in the order in which the options had them.
    """

    trunk: str  # key
    hyper: Draw
    variant: str = ""
    train_res: int = 0  # px
    index: int = 0
    repeat: int = 0  # from 1 where the trunk repeats one that has finished
    parent: str = ""  # key of the trunk that it starts from; empty: from the weights as they come
    parent_res: int = 0  # the train resolution of that, px


@dataclass(frozen=True, kw_only=True)
class Decided:
    """A trunk came to a rung, and it was decided whether it goes on at once.

    Journals of 0.1.0 name the group that it was compared in. What did not go on there was cut.
    """

    trunk: str  # key
    epoch: int
    top1: float
    goes_on: bool
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Promoted:
    """A trunk that had waited since ``epoch`` goes on."""

    trunk: str  # key
    epoch: int


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A trunk has ended."""

    trunk: str  # key
    why: TrunkStatus


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A driver has opened the journal: see :mod:`trainables.storage.fenced_log`."""

    epoch: int = 0
    driver: str = ""
    writer: str = ""


def asked(trunk: TrunkSpec, draw: Draw) -> dict[str, Any]:
    """Make the line of a proposal: what :class:`Asked` reads."""
    line: dict[str, Any] = {
        "event": "ask",
        "variant": trunk.variant,
        "train_res": trunk.train_res,
        "trunk": trunk.key,
        "hyper": draw.values,
    }
    if trunk.repeat:
        line["repeat"] = trunk.repeat
    if trunk.parent is not None:
        line |= {"parent": trunk.parent.trunk, "parent_res": trunk.parent.train_res}
    return line


Line = Asked | Decided | Promoted | Ended


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What a journal records of a plan, without lines that contradict the plan."""

    asked: Sequence[TrunkSpec]  # in the order of the proposals
    restored: Sequence[TrunkSpec]  # those of them that the journal has lost
    moves: Sequence[Decided | Promoted]
    ended: Mapping[str, TrunkStatus]  # by key


def line_from_json(value: Mapping[str, Any]) -> Line | Opened:
    """Read a line; raises anything for what is none."""
    fields = {name: v for name, v in value.items() if name != "event"}
    match value["event"]:
        case "open":
            return checked(Opened(**fields))
        case "ask":
            line: Line = Asked(**{**fields, "hyper": _draw_from_json(fields["hyper"])})
        case "rung":
            line = Decided(**fields)
        case "promote":
            line = Promoted(**fields)
        case "end":
            line = Ended(**{**fields, "why": TrunkStatus(fields["why"])})
        case other:
            raise ValueError(f"no event {other}")
    if not is_key(checked(line).trunk):
        raise ValueError("its trunk is no key")
    if isinstance(line, Asked) and line.parent and not is_key(line.parent):
        raise ValueError("its parent is no key")
    if isinstance(line, Decided) and not 0 <= line.top1 <= 1:
        raise ValueError("its top1 is no share")
    return line


def _draw_from_json(value: Mapping[str, Any]) -> Draw:
    """Read a draw; raises anything for what is none."""
    draw, known = draw_of(value), hyperparameters()
    if any(found != known[name].value_of(found) for name, found in draw.recipe.items()):
        raise ValueError("a hyperparameter is of another type")
    return replace(draw, hyper=checked(draw.hyper))


def read_journal(store: Store, plan: Plan) -> Recorded:
    """Read the journal of a plan's sweep; a warning tells what of it cannot be used.

    The sweep may have been over more than the plan is: trunks that were proposed beyond it are left
    out without a word.

    Raises:
        UserError: it is that of another sweep.
    """
    records = read_records(store.journal, line_from_json)
    lines = [line for line in records if not isinstance(line, Opened)]
    proposals = [line for line in lines if isinstance(line, Asked)]
    asked, beyond = _of_plan(plan, proposals)
    if not asked and any(line.trunk not in beyond for line in proposals):
        raise UserError(
            f"{store.journal} is of another sweep (none of its {len(proposals)} trunks comes from "
            "these options and images): give those that it was begun with, or another place for "
            "this sweep."
        )
    others = [line for line in lines if not isinstance(line, Asked) and line.trunk not in beyond]
    lost = [key for key in dict.fromkeys(line.trunk for line in others) if key not in asked]
    restored = list(_found_in_store(store, plan, lost, asked))
    asked |= {trunk.key: trunk for trunk in restored}
    used = [line for line in others if line.trunk in asked]
    known = {*asked, *beyond}
    spoilt = sum(line.trunk not in known for line in proposals) + len(others) - len(used)
    if spoilt or restored:
        log.warning(
            "%s: %d lines are of no trunk of this sweep and are left out; %d trunks whose lines "
            "are lost were found in the store",
            store.journal, max(0, spoilt), len(restored),
        )  # fmt: skip
    untouched = {trunk.key for trunk in plan.untouched()}
    if not lines and any(folder.name not in untouched for folder in children(store.trunks)):
        log.warning(
            "%s holds no line, though trunks are in the store: what comes next is decided anew",
            store.journal,
        )
    return Recorded(
        asked=list(asked.values()),
        restored=restored,
        moves=[line for line in used if isinstance(line, Decided | Promoted)],
        ended={line.trunk: line.why for line in used if isinstance(line, Ended)},
    )


def _of_plan(plan: Plan, proposals: Sequence[Asked]) -> tuple[dict[str, TrunkSpec], set[str]]:
    """Make the trunks of proposals, by key, and name those that are of the sweep beyond the plan.

    These are at other points, came after as many as the plan has at theirs, or repeat one of those
    or more often than the plan has it.
    """
    found: dict[str, TrunkSpec] = {}
    beyond: set[str] = set()
    left: dict[Point, int] = {}  # by the points whose first trunk has been found
    for line in proposals:
        if line.variant and _own_point(line) not in plan.grid.tests:
            beyond.add(line.trunk)
        for point in _points_of(plan, line):
            draw, parent = line.hyper, _parent_of(line)
            trunk = plan.trunk(point, draw.hyper, draw.recipe, line.repeat, parent)
            if trunk.key == line.trunk:
                is_new = trunk.key not in found
                room = left.setdefault(point, plan.samples_with(trunk))
                if (
                    is_new
                    and trunk.repeat < plan.spec.search.repeat
                    and (trunk.configuration in found if trunk.repeat else room)
                ):
                    left[point] -= not trunk.repeat
                    found[trunk.key] = trunk
                elif is_new:
                    beyond.add(trunk.key)
                break
    return found, beyond


def _parent_of(line: Asked) -> Parent | None:
    return Parent(trunk=line.parent, train_res=line.parent_res) if line.parent else None


def _own_point(line: Asked) -> Point:
    return Point(variant=line.variant, train_res=line.train_res)


def _points_of(plan: Plan, line: Asked) -> list[Point]:
    """List the points that a proposal may be of, the likeliest first."""
    if line.variant:
        own = _own_point(line)
        return [own] if own in plan.points else []
    first = line.index % len(plan.points)
    return [*plan.points[first:], *plan.points[:first]]


def _found_in_store(
    store: Store, plan: Plan, keys: Sequence[str], taken: Mapping[str, TrunkSpec]
) -> Iterator[TrunkSpec]:
    """Find trunks whose proposals are lost by their specs, as many as their points may have."""
    left: dict[Point, int] = {}
    for trunk in taken.values():
        left.setdefault(point_of(trunk), plan.samples_with(trunk))
        left[point_of(trunk)] -= not trunk.repeat
    for key in keys:
        try:
            spec = read_trunk_spec(store, key)
        except DamagedFileError:  # nothing is known of it
            continue
        point = point_of(spec)
        if point not in plan.grid.tests or spec.repeat >= plan.spec.search.repeat:
            continue
        draw = plan.search.draw_of(spec)
        made = plan.trunk(point, draw.hyper, draw.recipe, spec.repeat, spec.parent)
        room = left.setdefault(point, plan.samples_with(spec))
        if made.key == key and (spec.repeat or room):
            left[point] -= not spec.repeat
            yield spec
