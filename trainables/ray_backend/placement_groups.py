"""Remove placement groups whose creator is dead: they are their job's, and outlive the actor.

Ray Train has a cleaner of its own. It learns of a group only when its workers are up, and asks the
dashboard who is alive: where there is none, or a trial is killed before, GPUs stay reserved.
"""

from __future__ import annotations

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
    job = ray.get_runtime_context().get_job_id()
    rows = state._connect_and_get_accessor().get_placement_group_table()
    orphaned = [group for group in map(Group.FromString, rows) if _is_orphaned(group, job)]
    for group in orphaned:
        remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
    return len(orphaned)


def _is_orphaned(group: Any, job: str) -> bool:
    of_this_job = group.creator_job_id.hex() == job
    # A group that the driver created has no actor.
    dead = group.creator_actor_dead and not ActorID(group.creator_actor_id).is_nil()
    return of_this_job and dead and not group.is_detached and group.state != Group.REMOVED
