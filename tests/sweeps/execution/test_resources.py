"""Cores and GPUs of a trial, on a laptop and on a cluster."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from sweeps.execution.plan_resources import check_devices
from sweeps.execution.ray_cluster import current_placement
from sweeps.execution.resources import (
    CPU_MEMORY_FACTOR,
    HEAD_NODE_RESOURCE,
    ClusterResources,
    Gpu,
    MemoryNeed,
    PhaseResources,
    Placement,
    expected_placement,
    known_gpu,
)
from sweeps.planning.options.groups import ResourceOptions
from trainables.errors import UserError

Node = tuple[float, float]  # CPUs, GPUs


def given(monkeypatch: pytest.MonkeyPatch, nodes: list[Node], *, cluster: bool) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if cluster:
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    alive: list[dict[str, Any]] = [
        {"Alive": True, "Resources": {k: v for k, v in (("CPU", c), ("GPU", g)) if v}}
        for c, g in nodes
    ]
    dead = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [dead, *alive])


def on_cpus(
    cores: int, memory_gb: float, *gb: float, trials: int, **options: Any
) -> PhaseResources:
    """Resources of so many trials, each of which needs some GB, on a machine without GPUs."""
    cluster_resources = ClusterResources(
        cores=cores, gpus=0, gpus_per_node=0, gpu=None, memory_gb=memory_gb, cluster=False
    )
    placement = Placement(options=ResourceOptions(**options), cluster_resources=cluster_resources)
    needs = {("b0", i): MemoryNeed(gb=n.__truediv__, max_workers=8) for i, n in enumerate(gb)}
    return PhaseResources(placement=placement, needs=needs, trials=trials)


def resources_of(
    options: ResourceOptions, *gb: float, gpu_gb: float | None = None, most: int = 1
) -> PhaseResources:
    """Resources of trials that need so many GB each, which up to ``most`` workers share."""
    placement = current_placement(options)
    if gpu_gb is not None:
        gpu = Gpu(gb=gpu_gb, source="made up")
        available = replace(placement.cluster_resources, gpu=gpu)
        placement = replace(placement, cluster_resources=available)
    needs = {("b0", i): MemoryNeed(gb=n.__truediv__, max_workers=most) for i, n in enumerate(gb)}
    return PhaseResources(placement=placement, needs=needs)


def trials_of(resources: PhaseResources) -> list[tuple[int, float, int]]:
    """Return CPU cores, GPUs and workers of each trial."""
    return [(trial.cpus, trial.gpus, trial.workers) for trial in resources.trial_resources.values()]


# The expected values are cores, GPUs, and trials at a time, where no GPU's memory is known.
LAPTOP: list[tuple[list[Node], dict[str, Any], tuple[int, float, int | None]]] = [
    ([(8, 0)], {}, (8, 0.0, 1)),
    ([(2, 0)], {"concurrency": 1}, (2, 0.0, 1)),
    ([(8, 0)], {"concurrency": 3}, (2, 0.0, 3)),
    ([(2, 0)], {"concurrency": 5}, (1, 0.0, 5)),
    ([(8, 0)], {"cpus_per_trial": 3}, (3, 0.0, 1)),
    ([(16, 1)], {}, (16, 1.0, 1)),
    ([(16, 4)], {}, (4, 1.0, 4)),
    ([(16, 1)], {"concurrency": 4}, (4, 0.25, 4)),
    ([(16, 2)], {"concurrency": 3}, (5, 0.5, 3)),
    ([(16, 4)], {"concurrency": 2}, (8, 1.0, 2)),
    ([(16, 1)], {"gpus_per_trial": 0.5}, (8, 0.5, 2)),
    ([(16, 1)], {"gpus_per_trial": 0.0}, (16, 0.0, 1)),
    ([(16, 4)], {"gpus_per_trial": 2.0}, (8, 2.0, 2)),
    ([(16, 1)], {"gpus_per_trial": 0.1, "cpus_per_trial": 4}, (4, 0.1, 4)),
    ([(8, 0)], {"gpu_memory_gb": 24.0}, (8, 0.0, 1)),  # no GPU comes to a laptop
]
CLUSTER: list[tuple[list[Node], dict[str, Any], tuple[int, float, int | None]]] = [
    ([(0, 0)], {}, (4, 0.0, None)),  # a head without cores; workers are yet to come
    ([(0, 0)], {"gpus_per_trial": 1.0, "cpus_per_trial": 6}, (6, 1.0, None)),
    ([(0, 0)], {"gpu_memory_gb": 24.0}, (1, 0.125, None)),
    ([(0, 0), (32, 4), (32, 4)], {}, (8, 1.0, None)),
    ([(0, 0), (32, 4), (16, 4)], {}, (4, 1.0, None)),  # a trial fits on either
    ([(64, 0), (8, 1)], {}, (8, 1.0, None)),  # what has no GPU counts for no trial
    ([(2, 4)], {}, (1, 1.0, None)),
    ([(32, 4)], {"gpus_per_trial": 2.0}, (16, 2.0, None)),
    ([(32, 4)], {"gpus_per_trial": 0.0}, (4, 0.0, None)),
    ([(32, 4)], {"cpus_per_trial": 3}, (3, 1.0, None)),
    ([(2, 0), (2, 0)], {}, (2, 0.0, None)),
    ([(8, 1), (8, 1)], {"concurrency": 4}, (4, 0.5, 4)),
]


@pytest.mark.parametrize(("nodes", "options", "expected"), LAPTOP)
def test_on_a_laptop(
    monkeypatch: pytest.MonkeyPatch, nodes: list[Node], options: Any, expected: Any
) -> None:
    given(monkeypatch, nodes, cluster=False)
    resources = resources_of(ResourceOptions(**options), 1.0)
    assert [(*trials_of(resources)[0][:2], resources.concurrency)] == [expected]


@pytest.mark.parametrize(
    ("cores", "memory_gb", "trials", "options", "expected"),
    [
        (2, 16, 18, {}, (2, 1)),  # two on a core each are done sooner than one by one on both
        (8, 64, 18, {}, (6, 1)),  # three rounds, as with 7 or 8
        (8, 64, 800, {}, (8, 1)),
        (8, 64, 3, {}, (3, 2)),  # no more than there are
        (8, 64, 1, {}, (1, 8)),
        (1, 64, 9, {}, (1, 1)),
        (8, 7, 800, {}, (3, 2)),  # of 2 GB each, what memory holds
        (8, 1, 800, {}, (1, 8)),
        (8, 64, 800, {"cpus_per_trial": 3}, (2, 3)),
        (8, 64, 800, {"concurrency": 1}, (1, 8)),
        (8, 7, 800, {"concurrency": 5}, (5, 1)),  # asked for
        (8, 64, 800, {"workers_per_trial": 2}, (1, 4)),
    ],
)
def test_on_cpus_as_many_at_a_time_as_are_done_soonest(
    cores: int, memory_gb: float, trials: int, options: Any, expected: tuple[int, int]
) -> None:
    resources = on_cpus(cores, memory_gb, 0.4, 1.0, trials=trials, **options)
    assert (resources.concurrency, resources.cpus) == expected


def test_each_worker_on_a_gpu_asks_for_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, [], cluster=True)
    node = {"CPU": 32.0, "GPU": 4.0, "accelerator_type:A10G": 1.0}
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node}])
    options = ResourceOptions(accelerator_type="A10G", gpu_memory_gb=24.0)
    small, large = resources_of(options, 6.0, 40.0, most=4).trial_resources.values()
    assert small.bundle == {"CPU": 2, "GPU": 0.25, "accelerator_type:A10G": 0.001}
    assert large.workers > 1 and "accelerator_type:A10G" not in large.bundle
    assert large.config["worker_resources"]["accelerator_type:A10G"] == 0.001
    on_cpus = resources_of(replace(options, gpus_per_trial=0.0), 6.0).trial_resources
    assert [set(trial.bundle) for trial in on_cpus.values()] == [{"CPU", "GPU"}]


def test_on_cpus_neither_cores_nor_memory_are_promised_twice() -> None:
    rng = random.Random(0)
    for _ in range(500):
        cores, memory_gb = rng.randint(1, 96), rng.uniform(1, 400)
        gb, trials = rng.uniform(0.5, 30), rng.randint(1, 400)
        resources = on_cpus(cores, memory_gb, gb, trials=trials)
        at_a_time = resources.concurrency
        assert at_a_time is not None and 1 <= at_a_time <= trials
        assert at_a_time * resources.cpus <= cores
        assert at_a_time == 1 or at_a_time * CPU_MEMORY_FACTOR * gb <= memory_gb


@pytest.mark.parametrize(("nodes", "options", "expected"), CLUSTER)
def test_on_a_cluster(
    monkeypatch: pytest.MonkeyPatch, nodes: list[Node], options: Any, expected: Any
) -> None:
    given(monkeypatch, nodes, cluster=True)
    resources = resources_of(ResourceOptions(**options), 1.0)
    assert [(*trials_of(resources)[0][:2], resources.concurrency)] == [expected]


@pytest.mark.parametrize("cores", [1, 2, 7, 16])
@pytest.mark.parametrize("gpus", [0, 1, 2, 3, 8])
@pytest.mark.parametrize("concurrency", [None, 1, 2, 5, 8])
@pytest.mark.parametrize("gb", [None, 1.0, 3.3, 60.0])
def test_as_many_trials_as_were_asked_for_fit_a_laptop(
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    gpus: int,
    concurrency: int | None,
    gb: float | None,
) -> None:
    given(monkeypatch, [(cores, gpus)], cluster=False)
    resources = resources_of(
        ResourceOptions(concurrency=concurrency), gb or 1.0, gpu_gb=gb and 10.0
    )
    ((cpus, share, workers),) = trials_of(resources)
    at_a_time = resources.concurrency
    assert at_a_time is not None and at_a_time == (concurrency or at_a_time)
    assert workers == 1 and cpus >= 1
    if at_a_time <= cores:  # with fewer cores than trials some have to wait
        assert at_a_time * cpus <= cores
    if share:
        assert at_a_time <= gpus * int(1 / share)
    else:
        assert gpus == 0


# --- by memory ----------------------------------------------------------------------------------

NEEDS = [0.3, 1.1, 1.25, 2.0, 3.0, 3.4, 4.9, 5.0, 5.1, 9.9, 10.0]


@pytest.mark.parametrize("cluster", [True, False])
@pytest.mark.parametrize("gb", NEEDS)
def test_trials_that_fit_one_gpu_share_it(
    monkeypatch: pytest.MonkeyPatch, gb: float, cluster: bool
) -> None:
    """As many as its memory holds, and eight at most."""
    given(monkeypatch, [(16, 1)], cluster=cluster)
    resources = resources_of(ResourceOptions(), gb, gpu_gb=10.0)
    ((cpus, share, workers),) = trials_of(resources)
    together = int(1 / share)
    assert workers == 1 and together * gb <= 10.0
    assert together == 8 or (together + 1) * gb > 10.0
    assert share == int(share * 1e4) / 1e4  # as Ray counts
    assert cpus == 16 // together
    assert resources.concurrency == (None if cluster else together)


def test_whatever_ray_puts_on_one_gpu_fits_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, [(64, 4)], cluster=True)
    shares = [
        share for _, share, _ in trials_of(resources_of(ResourceOptions(), *NEEDS, gpu_gb=10.0))
    ]
    generator = random.Random(0)
    for _ in range(500):
        on_it: list[int] = []
        while sum(shares[i] for i in on_it) <= 1:
            on_it.append(generator.randrange(len(NEEDS)))
        assert sum(NEEDS[i] for i in on_it[:-1]) <= 10.0 * 1.001


@pytest.mark.parametrize("cluster", [True, False])
@pytest.mark.parametrize("node", [(8, 1), (64, 4), (30, 4), (96, 8)])
def test_a_trial_has_the_cores_of_its_share_whatever_else_the_sweep_has(
    monkeypatch: pytest.MonkeyPatch, node: Node, cluster: bool
) -> None:
    """One that has a GPU to itself has all that GPU's cores, though others share theirs."""
    given(monkeypatch, [node], cluster=cluster)
    together = trials_of(resources_of(ResourceOptions(), *NEEDS, gpu_gb=10.0))
    alone = [trials_of(resources_of(ResourceOptions(), gb, gpu_gb=10.0))[0] for gb in NEEDS]
    assert together == alone
    cores_per_gpu = int(node[0] // node[1])
    assert together[-1] == (cores_per_gpu, 1.0, 1)
    generator = random.Random(0)
    for _ in range(200):
        on_it: list[int] = []
        while sum(together[i][1] for i in on_it) <= 1:
            on_it.append(generator.randrange(len(NEEDS)))
        cores = [together[i][0] for i in on_it[:-1]]
        # More trials than there are cores have one each.
        assert sum(cores) <= cores_per_gpu or min(cores) == 1


def test_what_needs_more_than_one_gpu_is_spread_over_as_few_as_hold_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given(monkeypatch, [(16, 4)], cluster=False)
    resources = resources_of(ResourceOptions(), 9.0, 19.0, 29.0, 99.0, gpu_gb=10.0, most=16)
    assert [trial[1:] for trial in trials_of(resources)] == [(1.0, 1), (1.0, 2), (1.0, 3), (1.0, 4)]
    assert {trial[0] for trial in trials_of(resources)} == {4}
    assert trials_of(resources_of(ResourceOptions(), 39.0, gpu_gb=10.0, most=3))[0][1:] == (1.0, 3)
    assert trials_of(resources_of(ResourceOptions(), 39.0, gpu_gb=10.0))[0][1:] == (
        1.0,
        1,
    )  # a cell
    with_others = resources_of(ResourceOptions(concurrency=2), 39.0, gpu_gb=10.0, most=16)
    assert trials_of(with_others)[0][1:] == (1.0, 2)
    assert (
        trials_of(resources_of(ResourceOptions(workers_per_trial=1), 39.0, gpu_gb=10.0, most=16))[
            0
        ][2]
        == 1
    )


def test_workers_are_as_many_as_are_asked_for_and_with_them_the_trials_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ResourceOptions(workers_per_trial=2)
    given(monkeypatch, [(16, 4)], cluster=False)
    resources = resources_of(options, 1.0, gpu_gb=10.0, most=16)
    assert trials_of(resources) == [(4, 1.0, 2)] and resources.concurrency == 2
    assert trials_of(resources_of(options, 1.0, gpu_gb=10.0)) == [(1, 0.125, 1)]  # cells take one
    given(monkeypatch, [(4, 0)], cluster=False)
    resources = resources_of(options, 1.0, most=16)
    assert trials_of(resources) == [(2, 0.0, 2)] and resources.concurrency == 1
    given(monkeypatch, [(0, 0)], cluster=True)
    resources = resources_of(replace(options, gpu_memory_gb=24.0), 1.0, most=16)
    assert trials_of(resources) == [(4, 1.0, 2)] and resources.concurrency is None


@pytest.mark.parametrize("cluster", [True, False])
@pytest.mark.parametrize("gpus", [1, 2, 3, 8])
@pytest.mark.parametrize("workers", [2, 3, 8])
def test_trials_that_wait_for_workers_take_nothing_from_them(
    monkeypatch: pytest.MonkeyPatch, workers: int, gpus: int, cluster: bool
) -> None:
    given(monkeypatch, [(64, gpus)], cluster=cluster)
    resources = resources_of(ResourceOptions(workers_per_trial=workers), 1.0, gpu_gb=10.0, most=16)
    if workers > gpus and not cluster:
        with pytest.raises(UserError, match=f"{workers} workers a trial take .* {gpus}: give"):
            _ = resources.trial_resources
        return
    (trial,) = resources.trial_resources.values()
    assert set(trial.bundle) == {HEAD_NODE_RESOURCE}
    waiting = int(1 / trial.bundle[HEAD_NODE_RESOURCE])
    assert waiting * trial.bundle[HEAD_NODE_RESOURCE] <= 0.95  # some is left for Ray's own
    if cluster:
        assert waiting == 8
    else:
        assert waiting == resources.concurrency
        assert waiting * workers * trial.gpus <= gpus and waiting * workers * trial.cpus <= 64


def test_more_cores_than_there_are_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, [(2, 0)], cluster=False)
    with pytest.raises(UserError, match="4 workers a trial take 4 CPU cores and 0 GPUs"):
        _ = resources_of(ResourceOptions(workers_per_trial=4), 1.0, most=16).trial_resources


def test_a_trial_that_runs_alone_has_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, [(16, 2)], cluster=False)
    shared = resources_of(ResourceOptions(concurrency=4), 1.0, gpu_gb=10.0)
    assert trials_of(shared) == [(4, 0.5, 1)]
    alone = replace(shared, alone=True)
    assert trials_of(alone) == [(16, 1.0, 1)] and alone.concurrency == 1


def test_the_memory_of_a_gpu_is_given_or_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [
        SimpleNamespace(name="NVIDIA L4", total_memory=24 * 10**9),
        SimpleNamespace(name="NVIDIA T4", total_memory=16 * 10**9),
    ]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
    assert known_gpu(ResourceOptions()) == Gpu(gb=16.0, source="NVIDIA T4, seen here")
    assert known_gpu(ResourceOptions(gpu_memory_gb=80.0)) == Gpu(gb=80.0, source="--gpu-memory-gb")
    cards.clear()
    assert known_gpu(ResourceOptions()) is None


def test_gpus_are_expected_where_they_are_seen_or_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert not expected_placement(ResourceOptions()).uses_gpus
    assert expected_placement(ResourceOptions(gpu_memory_gb=24.0)).uses_gpus
    assert not expected_placement(ResourceOptions(gpu_memory_gb=24.0, gpus_per_trial=0.0)).uses_gpus


def test_what_speeds_gpus_up_is_refused_where_trials_are_to_use_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = ResourceOptions(speed_ups=("cuda_graph",))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    given(monkeypatch, [], cluster=False)
    with pytest.raises(UserError, match="`speed_ups` cuda_graph is of GPUs"):
        check_devices(asked)
    check_devices(replace(asked, gpu_memory_gb=24.0))  # nodes with GPUs are yet to come
    check_devices(replace(asked, speed_ups=("compile",)))
    given(monkeypatch, [], cluster=True)
    check_devices(asked)
    with pytest.raises(UserError, match="`speed_ups` cuda_graph"):
        check_devices(replace(asked, gpus_per_trial=0))
