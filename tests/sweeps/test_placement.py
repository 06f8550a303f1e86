"""Cores and GPUs of a trial, on a laptop and on a cluster."""

from __future__ import annotations

import os
from typing import Any

import pytest
import ray

from sweeps.environment import on_cluster, set_environment
from sweeps.placement import Placement, own_threads, place
from sweeps.spec import RunOptions

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
    for address, expected in ((None, False), ("", False), ("10.0.0.1:6379", True)):
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        if address is not None:
            monkeypatch.setenv("RAY_ADDRESS", address)
        assert on_cluster() is expected


LAPTOP: list[tuple[list[Node], dict[str, Any], tuple[int, float, int | None]]] = [
    ([(8, 0)], {}, (8, 0.0, 1)),
    ([(2, 0)], {"concurrency": 1}, (2, 0.0, 1)),
    ([(8, 0)], {"concurrency": 3}, (2, 0.0, 3)),
    ([(2, 0)], {"concurrency": 5}, (1, 0.0, 5)),
    ([(8, 0)], {"cpus_per_trial": 3}, (3, 0.0, 1)),
    ([(16, 1)], {}, (16, 1.0, 1)),
    ([(16, 4)], {}, (4, 1.0, 4)),
    ([(16, 1)], {"concurrency": 4}, (4, 0.25, 4)),
    ([(16, 2)], {"concurrency": 3}, (5, 0.667, 3)),
    ([(16, 4)], {"concurrency": 2}, (8, 1.0, 2)),
    ([(16, 1)], {"gpus_per_trial": 0.5}, (16, 0.5, 1)),
    ([(16, 1)], {"gpus_per_trial": 0.0}, (16, 0.0, 1)),
]
CLUSTER: list[tuple[list[Node], dict[str, Any], tuple[int, float, int | None]]] = [
    ([(0, 0)], {}, (4, 0.0, None)),  # a head without cores; workers are yet to come
    ([(0, 0)], {"gpus_per_trial": 1.0, "cpus_per_trial": 6}, (6, 1.0, None)),
    ([(0, 0), (32, 4), (32, 4)], {}, (4, 1.0, None)),
    ([(2, 0), (2, 0)], {}, (2, 0.0, None)),
    ([(8, 1), (8, 1)], {"concurrency": 4}, (4, 0.5, 4)),
]


@pytest.mark.parametrize(("nodes", "options", "expected"), LAPTOP)
def test_on_a_laptop(
    monkeypatch: pytest.MonkeyPatch, nodes: list[Node], options: Any, expected: Any
) -> None:
    given(monkeypatch, nodes, cluster=False)
    cpus, gpus, concurrency = expected
    found = place(RunOptions(**options))
    assert found == Placement(cpus=cpus, gpus=gpus, concurrency=concurrency)


@pytest.mark.parametrize(("nodes", "options", "expected"), CLUSTER)
def test_on_a_cluster(
    monkeypatch: pytest.MonkeyPatch, nodes: list[Node], options: Any, expected: Any
) -> None:
    given(monkeypatch, nodes, cluster=True)
    cpus, gpus, concurrency = expected
    found = place(RunOptions(**options))
    assert found == Placement(cpus=cpus, gpus=gpus, concurrency=concurrency)


@pytest.mark.parametrize("cores", [1, 2, 7, 16])
@pytest.mark.parametrize("gpus", [0, 1, 2, 3, 8])
@pytest.mark.parametrize("concurrency", [None, 1, 2, 5, 8])
def test_as_many_trials_as_were_asked_for_fit_a_laptop(
    monkeypatch: pytest.MonkeyPatch, cores: int, gpus: int, concurrency: int | None
) -> None:
    given(monkeypatch, [(cores, gpus)], cluster=False)
    found = place(RunOptions(concurrency=concurrency))
    at_a_time = found.concurrency
    assert at_a_time is not None and at_a_time == (concurrency or max(1, gpus))
    if at_a_time <= cores:  # with fewer cores than trials some have to wait
        assert at_a_time * found.cpus <= cores
    if found.gpus:
        assert at_a_time * found.gpus <= gpus + 0.001 * at_a_time


@pytest.mark.parametrize("cluster", [True, False])
def test_environment_is_set_where_it_is_not(monkeypatch: pytest.MonkeyPatch, cluster: bool) -> None:
    for name in list(os.environ):
        if name.startswith(("RAY_", "TUNE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "1")  # the user's own choice stays
    if cluster:
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    before = set(os.environ)
    try:
        set_environment()
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        assert os.environ["RAY_AIR_NEW_OUTPUT"] == "1"
        assert ("RAY_AUTH_TOKEN" in os.environ) is not cluster
    finally:
        for name in set(os.environ) - before:
            del os.environ[name]


def test_the_driver_uses_all_cores() -> None:
    assert own_threads() == os.cpu_count()
