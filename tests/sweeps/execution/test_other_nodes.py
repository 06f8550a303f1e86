"""What fails on a node twice is tried on another, where there is one that can hold it."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st
from ray import tune
from ray.tune.experiment import Trial
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from sweeps.execution import other_nodes, tune_runner
from sweeps.execution.other_nodes import (
    FAILURES_ON_A_NODE,
    Node,
    nodes_to_avoid,
    resources_to_ask,
    without_node,
)
from sweeps.execution.resources import ClusterResources, MemoryNeed, PhaseResources, Placement
from sweeps.execution.tasks import Phase, Queued, RunningPhase, Task, Tasks
from sweeps.planning.options.groups import ResourceOptions
from tests.sweeps.execution.fragile_trial import FragileContext, PickyAboutNodes
from trainables.ray_backend import trial_node
from trainables.ray_backend.trial_node import errors_name_node

NET = ("", 0)
BUNDLE = {"CPU": 2.0}


def node(name: str, cpus: float = 4.0) -> Node:
    return Node(id=name, name=f"address of {name}", resources={"CPU": cpus, "memory": 1e9})


NODES = [node("a"), node("b"), node("c", cpus=1.0)]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5)))
def test_only_what_has_failed_twice_is_avoided_and_never_all_that_could_hold_it(
    failures: dict[str, int],
) -> None:
    avoided = nodes_to_avoid(failures, BUNDLE, NODES)
    bad = {name for name, count in failures.items() if count >= FAILURES_ON_A_NODE}
    assert set(avoided) == (set() if {"a", "b"} <= bad else bad), "c is too small"


def test_a_node_that_lacks_what_is_asked_for_cannot_hold_it() -> None:
    assert nodes_to_avoid({"a": 2}, {"CPU": 1.0, "GPU": 0.5}, NODES) == ()
    assert nodes_to_avoid({"a": 2}, {"CPU": 1.0}, NODES[:1]) == (), "the only one"


def test_avoided_nodes_are_in_what_is_asked_of_the_cluster() -> None:
    plain, kept = (resources_to_ask({"resources": BUNDLE, "avoided": a}) for a in ((), ("a", "b")))
    assert plain == tune.PlacementGroupFactory([BUNDLE]) == resources_to_ask({"resources": BUNDLE})
    selector = [{"ray.io/node-id": "!in(a,b)"}]
    assert kept == tune.PlacementGroupFactory([BUNDLE], bundle_label_selector=selector)
    assert kept != plain and kept.required_resources == plain.required_resources


def test_an_error_names_its_node_and_reads_as_before_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trial_node, "node_id", lambda: "0af1")

    def trace_of(raises: Callable[[], Any]) -> str:
        try:
            raises()
        except ValueError:
            return traceback.format_exc()
        raise AssertionError

    def failing() -> None:
        with errors_name_node():
            raise ValueError("no such disk")

    trace = trace_of(failing)
    bare, found = without_node(trace)
    assert found == "0af1" and bare.rstrip().endswith("ValueError: no such disk")
    assert "0af1" not in bare and without_node(bare) == (bare, None)


def a_phase(**callbacks: Any) -> Phase:
    plain: dict[str, Any] = {
        "queue": lambda: None,
        "should_continue": lambda work, result: False,
        "failed": lambda work, trace: None,
    }
    return Phase(**(plain | callbacks))


def resources_of(cpus: int) -> PhaseResources:
    available = ClusterResources(
        cores=cpus, gpus=0, gpus_per_node=0, gpu=None, memory_gb=16, cluster=False
    )
    return PhaseResources(
        placement=Placement(options=ResourceOptions(), cluster_resources=available),
        needs={NET: MemoryNeed(gb=lambda workers: 0.1, max_workers=1)},
    )


def test_a_trial_that_no_node_can_hold_any_more_is_queued_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tune_runner, "LOOK_AT_NODES_EVERY_S", 0.0)
    there = list(NODES)
    monkeypatch.setattr(tune_runner, "alive_nodes", lambda: there)
    monkeypatch.setattr(tune_runner, "is_starting", lambda controller, trial: False)
    tasks = Tasks()
    scheduler = tune_runner._PhaseScheduler(tasks)
    searcher = tune_runner._PhaseSearcher([], tasks, scheduler)
    of = RunningPhase(phase=a_phase(), resources=resources_of(1), rank=0)
    task = tasks["t"] = Task(of, Queued(net=NET), {"resources": BUNDLE})
    task.failed_on.update({"a": 2})
    task.avoid(("a",))
    trial: Any = SimpleNamespace(trial_id="t", status=Trial.PENDING)
    scheduler.on_trial_add(None, trial)

    def stop_trial(stopped: Any) -> None:
        assert stopped is trial
        trial.status = Trial.TERMINATED
        searcher.on_trial_complete("t")

    controller = SimpleNamespace(stop_trial=stop_trial)
    assert scheduler.choose_trial_to_run(controller) is trial and task.avoided == ("a",)
    del there[1]  # b, which alone could hold it
    assert scheduler.choose_trial_to_run(controller) is None
    config = searcher.suggest("u")
    assert tasks["u"] is task and config["avoided"] == () and task.failed_on == {"a": 2}


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of two nodes with a core each, beside a head without."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    monkeypatch.setenv("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    from ray.cluster_utils import Cluster

    small: dict[str, Any] = {"object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    workers = [cluster.add_node(num_cpus=1, object_store_memory=80_000_000) for _ in range(2)]
    ray.init(
        address=cluster.address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[3])}},
    )
    yield SimpleNamespace(workers=workers, remove=cluster.remove_node)
    ray.shutdown()
    cluster.shutdown()


def run(folder: Path, name: str, on_left: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Run a trial that fails on the first node it comes to; tell where it ended, and how.

    The other node is taken by something else until the trial is kept from the first.
    """
    names: list[Any] = [name]
    told: dict[str, Any] = {"left": [], "nodes": [], "failed": [], "last lines": set()}
    blockers: list[PlacementGroup] = []

    def retried(work: Any, trace: str, left: str) -> None:
        told["left"].append(left)
        told["last lines"].add(trace.rstrip().splitlines()[-1])
        if not told["left"][1:]:
            selector = [{"ray.io/node-id": f"!{(folder / 'bad').read_text()}"}]
            blockers.append(placement_group([{"CPU": 1}], bundle_label_selector=selector))
            ray.get(blockers[0].ready())
        if left:
            remove_placement_group(blockers.pop())
            on_left()

    def should_continue(work: Any, result: dict[str, Any]) -> bool:
        if result["node"] is None:
            return True
        told["nodes"].append(result["node"])
        return False

    phase = a_phase(
        queue=lambda: Queued(net=NET, work=names.pop(0)) if names else None,
        should_continue=should_continue,
        failed=lambda work, trace: told["failed"].append(work),
        retried=retried,
    )
    context: Any = FragileContext(marks=folder)
    tune_runner.run_trials(PickyAboutNodes, [(phase, resources_of(1))], context)
    return told


@pytest.mark.slow
@pytest.mark.parametrize("name", ["setup", "step", "dies"])
def test_what_fails_on_a_node_twice_goes_to_another(
    two_nodes: Any, tmp_path: Path, name: str
) -> None:
    told = run(tmp_path, name)
    bad = (tmp_path / "bad").read_text()
    (good,) = told["nodes"]
    assert good != bad and told["failed"] == []
    if name != "dies":
        assert told["last lines"] == {"ValueError: broken"}
    (*before, last) = told["left"]
    assert before == [""] * (FAILURES_ON_A_NODE - 1)
    assert last == {found.id: found.name for found in other_nodes.alive_nodes()}[bad]


@pytest.mark.slow
def test_where_the_other_node_goes_it_is_tried_again_where_it_failed(
    two_nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune_runner, "LOOK_AT_NODES_EVERY_S", 0.1)

    def remove_other() -> None:
        bad = (tmp_path / "bad").read_text().strip()
        (other,) = [n for n in two_nodes.workers if n.node_id != bad]
        two_nodes.remove(other)

    told = run(tmp_path, "step", remove_other)
    assert told["failed"] == ["step"] and told["nodes"] == []
    assert sum(bool(left) for left in told["left"]) == 1
