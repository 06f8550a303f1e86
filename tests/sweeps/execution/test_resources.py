"""Cores and GPUs of a trial, on a laptop and on a cluster."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from sweeps.environment import on_cluster
from sweeps.execution.ray_cluster import current_placement
from sweeps.execution.resources import (
    HEAD_NODE_RESOURCE,
    Gpu,
    MemoryNeed,
    PhaseResources,
    driver_threads,
    expected_placement,
    known_gpu,
)
from sweeps.planning.spec import ResourceOptions
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


def test_a_cluster_is_one_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for address, there in ((None, False), ("", False), ("10.0.0.1:6379", True)):
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        if address is not None:
            monkeypatch.setenv("RAY_ADDRESS", address)
        assert on_cluster() is there


def room(
    options: ResourceOptions, *gb: float, gpu_gb: float | None = None, most: int = 1
) -> PhaseResources:
    """For trials that need so many GB each, which up to ``most`` workers share."""
    found = current_placement(options)
    if gpu_gb is not None:
        gpu = Gpu(gb=gpu_gb, source="made up")
        found = replace(found, cluster_resources=replace(found.cluster_resources, gpu=gpu))
    needs = {("b0", i): MemoryNeed(gb=n.__truediv__, max_workers=most) for i, n in enumerate(gb)}
    return PhaseResources(placement=found, needs=needs)


def asked(room: PhaseResources) -> list[tuple[int, float, int]]:
    """CPU cores, GPUs and workers of each trial."""
    return [(ask.cpus, ask.gpus, ask.workers) for ask in room.trial_resources.values()]


# Where nothing is known of a GPU's memory: cores, GPUs, and trials at a time.
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
    ([(0, 0), (32, 4), (32, 4)], {}, (4, 1.0, None)),
    ([(2, 0), (2, 0)], {}, (2, 0.0, None)),
    ([(8, 1), (8, 1)], {"concurrency": 4}, (4, 0.5, 4)),
]


@pytest.mark.parametrize(("nodes", "options", "expected"), LAPTOP)
def test_on_a_laptop(
    monkeypatch: pytest.MonkeyPatch, nodes: list[Node], options: Any, expected: Any
) -> None:
    given(monkeypatch, nodes, cluster=False)
    found = room(ResourceOptions(**options), 1.0)
    assert [(*asked(found)[0][:2], found.concurrency)] == [expected]


@pytest.mark.parametrize(("nodes", "options", "expected"), CLUSTER)
def test_on_a_cluster(
    monkeypatch: pytest.MonkeyPatch, nodes: list[Node], options: Any, expected: Any
) -> None:
    given(monkeypatch, nodes, cluster=True)
    found = room(ResourceOptions(**options), 1.0)
    assert [(*asked(found)[0][:2], found.concurrency)] == [expected]


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
    found = room(ResourceOptions(concurrency=concurrency), gb or 1.0, gpu_gb=gb and 10.0)
    ((cpus, share, workers),) = asked(found)
    at_a_time = found.concurrency
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
    found = room(ResourceOptions(), gb, gpu_gb=10.0)
    ((cpus, share, workers),) = asked(found)
    together = int(1 / share)
    assert workers == 1 and together * gb <= 10.0
    assert together == 8 or (together + 1) * gb > 10.0
    assert share == int(share * 1e4) / 1e4  # as Ray counts
    assert cpus == min(4, 16 // together) if cluster else cpus == 16 // together
    assert found.concurrency == (None if cluster else together)


def test_whatever_ray_puts_on_one_gpu_fits_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, [(64, 4)], cluster=True)
    shares = [share for _, share, _ in asked(room(ResourceOptions(), *NEEDS, gpu_gb=10.0))]
    drawn = random.Random(0)
    for _ in range(500):
        on_it: list[int] = []
        while sum(shares[i] for i in on_it) <= 1:
            on_it.append(drawn.randrange(len(NEEDS)))
        assert sum(NEEDS[i] for i in on_it[:-1]) <= 10.0 * 1.001


def test_what_needs_more_than_one_gpu_is_spread_over_as_few_as_hold_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given(monkeypatch, [(16, 4)], cluster=False)
    found = room(ResourceOptions(), 9.0, 19.0, 29.0, 99.0, gpu_gb=10.0, most=16)
    assert [ask[1:] for ask in asked(found)] == [(1.0, 1), (1.0, 2), (1.0, 3), (1.0, 4)]
    assert {ask[0] for ask in asked(found)} == {4}
    assert asked(room(ResourceOptions(), 39.0, gpu_gb=10.0, most=3))[0][1:] == (1.0, 3)
    assert asked(room(ResourceOptions(), 39.0, gpu_gb=10.0))[0][1:] == (1.0, 1)  # a cell
    with_others = room(ResourceOptions(concurrency=2), 39.0, gpu_gb=10.0, most=16)
    assert asked(with_others)[0][1:] == (1.0, 2)
    assert asked(room(ResourceOptions(workers_per_trial=1), 39.0, gpu_gb=10.0, most=16))[0][2] == 1


def test_workers_are_as_many_as_are_asked_for_and_with_them_the_trials_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ResourceOptions(workers_per_trial=2)
    given(monkeypatch, [(16, 4)], cluster=False)
    found = room(options, 1.0, gpu_gb=10.0, most=16)
    assert asked(found) == [(4, 1.0, 2)] and found.concurrency == 2
    assert asked(room(options, 1.0, gpu_gb=10.0)) == [(1, 0.125, 1)]  # cells take one
    given(monkeypatch, [(4, 0)], cluster=False)
    found = room(options, 1.0, most=16)
    assert asked(found) == [(2, 0.0, 2)] and found.concurrency == 1
    given(monkeypatch, [(0, 0)], cluster=True)
    found = room(replace(options, gpu_memory_gb=24.0), 1.0, most=16)
    assert asked(found) == [(4, 1.0, 2)] and found.concurrency is None


@pytest.mark.parametrize("cluster", [True, False])
@pytest.mark.parametrize("gpus", [1, 2, 3, 8])
@pytest.mark.parametrize("workers", [2, 3, 8])
def test_trials_that_wait_for_workers_take_nothing_from_them(
    monkeypatch: pytest.MonkeyPatch, workers: int, gpus: int, cluster: bool
) -> None:
    given(monkeypatch, [(64, gpus)], cluster=cluster)
    found = room(ResourceOptions(workers_per_trial=workers), 1.0, gpu_gb=10.0, most=16)
    if workers > gpus and not cluster:
        with pytest.raises(UserError, match=f"{workers} workers a trial take .* {gpus}: give"):
            _ = found.trial_resources
        return
    (ask,) = found.trial_resources.values()
    assert set(ask.bundle) == {HEAD_NODE_RESOURCE}
    waiting = int(1 / ask.bundle[HEAD_NODE_RESOURCE])
    assert waiting * ask.bundle[HEAD_NODE_RESOURCE] <= 0.95  # some is left for Ray's own
    if cluster:
        assert waiting == 8
    else:
        assert waiting == found.concurrency
        assert waiting * workers * ask.gpus <= gpus and waiting * workers * ask.cpus <= 64


def test_more_cores_than_there_are_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, [(2, 0)], cluster=False)
    with pytest.raises(UserError, match="4 workers a trial take 4 CPU cores and 0 GPUs"):
        _ = room(ResourceOptions(workers_per_trial=4), 1.0, most=16).trial_resources


def test_a_trial_that_runs_alone_has_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    given(monkeypatch, [(16, 2)], cluster=False)
    shared = room(ResourceOptions(concurrency=4), 1.0, gpu_gb=10.0)
    assert asked(shared) == [(4, 0.5, 1)]
    alone = replace(shared, alone=True)
    assert asked(alone) == [(16, 1.0, 1)] and alone.concurrency == 1


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


# --- around Ray -------------------------------------------------------------------------------


def test_the_driver_uses_all_cores() -> None:
    assert driver_threads() == os.cpu_count()
