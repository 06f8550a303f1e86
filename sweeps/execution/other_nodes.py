"""Keep a trial from a node that it fails on again and again, where another node can hold it.

A node's disk, driver or memory may be broken, or its image set another than the driver's: what is
tried there again fails again. Nodes that are yet to come are not counted on, as they may never.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from trainables.ray_backend.trial_node import ON_NODE

# A trial fails on a node so often before it is kept from it: once may be chance.
FAILURES_ON_A_NODE = 2
NODE_LABEL = "ray.io/node-id"  # Ray's own, of every node


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of the cluster that is alive."""

    id: str
    name: str
    """Its address, for people."""
    resources: Mapping[str, float]
    """All that it has, taken or free, as Ray names it."""

    def holds(self, bundle: Mapping[str, float]) -> bool:
        """Whether a trial that asks for this could run there."""
        return all(self.resources.get(name, 0.0) >= asked for name, asked in bundle.items())


def alive_nodes() -> list[Node]:
    """List the nodes of the cluster that are alive."""
    return [
        Node(id=found["NodeID"], name=found["NodeManagerAddress"], resources=found["Resources"])
        for found in ray.nodes()  # type: ignore[no-untyped-call]
        if found["Alive"]
    ]


def nodes_to_avoid(
    failures: Mapping[str, int], bundle: Mapping[str, float], nodes: Sequence[Node]
) -> tuple[str, ...]:
    """Say from which nodes a trial is to be kept; none where no other can hold it.

    Args:
        failures: of the trial's work, by the id of the node.
        bundle: what the trial asks for.
        nodes: that are alive.
    """
    bad = sorted(node for node, count in failures.items() if count >= FAILURES_ON_A_NODE)
    others = any(node.holds(bundle) for node in nodes if node.id not in bad)
    return tuple(bad) if others else ()


def resources_to_ask(config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """Make what Tune asks of the cluster for a trial, by its configuration.

    It names the ``resources`` and, as ``avoided``, ids of nodes that the trial is kept from.
    """
    avoided = config.get("avoided", ())
    if not avoided:
        return tune.PlacementGroupFactory([config["resources"]])
    selector = [{NODE_LABEL: f"!in({','.join(avoided)})"}]
    return tune.PlacementGroupFactory([config["resources"]], bundle_label_selector=selector)


def without_node(trace: str) -> tuple[str, str | None]:
    """Take from a traceback the note on which node its trial failed; None: it has none."""
    pattern = rf"^.*{re.escape(ON_NODE)}([0-9a-f]+)\s*?$\n?"
    found = re.findall(pattern, trace, re.MULTILINE)
    return re.sub(pattern, "", trace, flags=re.MULTILINE), found[-1] if found else None


def node_of_actor(answer: Any) -> str | None:
    """Take an actor's answer on which node it runs; None: it has not answered, and may be dead."""
    if answer is None or not ray.wait([answer], timeout=0)[0]:
        return None
    try:
        return str(ray.get(answer))
    except ray.exceptions.RayError:
        return None
