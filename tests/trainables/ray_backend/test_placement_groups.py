import pytest
from ray.util.placement_group import (
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from tests.waiting import wait_until
from trainables.ray_backend.placement_groups import remove_orphaned_groups, workers_wait

pytestmark = pytest.mark.slow


def test_only_what_the_dead_reserved_is_released(ray):
    class Maker:
        def make(self):
            group = placement_group([{"CPU": 1}])
            ray.get(group.ready())
            return group

    makers = [ray.remote(num_cpus=0)(Maker).remote() for _ in range(2)]
    orphaned, used = ray.get([maker.make.remote() for maker in makers])
    own = placement_group([{"CPU": 1}])
    assert remove_orphaned_groups() == 0

    ray.kill(makers[0])
    wait_until(remove_orphaned_groups)

    states = [placement_group_table(group)["state"] for group in (orphaned, used, own)]
    assert states[0] == "REMOVED"
    assert "REMOVED" not in states[1:]
    assert remove_orphaned_groups() == 0
    for group in (used, own):
        remove_placement_group(group)
    ray.kill(makers[1])


def test_workers_wait_while_others_hold_what_they_need(ray):
    """What the whole cluster has not got is waited for as nodes are."""

    class Maker:
        def make(self, cpus):
            placement_group([{"CPU": 1}] * cpus)

    cpus = int(ray.cluster_resources()["CPU"])
    held = placement_group([{"CPU": 1}])
    ray.get(held.ready())
    makers = [ray.remote(num_cpus=0)(Maker).remote() for _ in range(2)]
    ray.get(makers[0].make.remote(cpus + 1))
    assert not workers_wait()

    ray.get(makers[1].make.remote(cpus))
    assert workers_wait()
    remove_placement_group(held)
    wait_until(lambda: not workers_wait())

    for maker in makers:
        ray.kill(maker)
    wait_until(remove_orphaned_groups)
