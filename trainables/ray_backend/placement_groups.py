"""See placement groups that wait, and remove those whose creator is dead.

A group is its job's, and outlives the actor that made it.

Ray Train has a cleaner of its own. It learns of a group only when its workers are up, and asks the
dashboard who is alive: where there is none, or a trial is killed before, GPUs stay reserved.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import ray
from ray._private.state import state  # the public interface does not say who created a group
from ray._raylet import ActorID, PlacementGroupID
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group

Group: Any = gcs_pb2.PlacementGroupTableData  # type: ignore[attr-defined] # made at run time


def remove_orphaned_groups() -> int:
    """Remove the placement groups that dead actors of this job created.

    Returns:
        How many there were.
    """
    orphaned = [group for group in _groups_of_actors() if _is_orphaned(group)]
    for group in orphaned:
        remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
    return len(orphaned)


def workers_wait() -> bool:
    """Whether workers of a trial of this job wait for what others hold, and would fit otherwise.

    Those that are more than the whole cluster has wait for nodes, and not for others.
    """
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]

    def fits(group: Any) -> bool:
        needed: Counter[str] = Counter()
        for bundle in group.bundles:
            needed.update(bundle.unit_resources)
        return all(total.get(name, 0.0) >= amount for name, amount in needed.items())

    return any(
        group.state in (Group.PENDING, Group.RESCHEDULING)
        and not group.creator_actor_dead
        and fits(group)
        for group in _groups_of_actors()
    )


def _groups_of_actors() -> list[Any]:
    """List the groups that actors of this job have created, those of the driver left out."""
    job = ray.get_runtime_context().get_job_id()
    rows = state._connect_and_get_accessor().get_placement_group_table()
    groups = map(Group.FromString, rows)
    return [
        group
        for group in groups
        if group.creator_job_id.hex() == job and not ActorID(group.creator_actor_id).is_nil()
    ]


def _is_orphaned(group: Any) -> bool:
    return group.creator_actor_dead and not group.is_detached and group.state != Group.REMOVED
