"""Trunks of two workers in a Ray of their own, some of them preempted or killed at their work."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.trainables.ray_backend.trunk_trials import (
    STEPS,
    begin,
    is_saved,
    kill,
    meanwhile,
    preempt,
    processes,
    run,
    same_weights,
    train_alone,
)
from trainables.storage.files import read_lines, read_state
from trainables.training.trunk import recorded_reports

pytestmark = pytest.mark.slow
TWO: dict[str, Any] = {"workers": 2, "worker_resources": {"CPU": 1, "GPU": 0}}
EPOCHS = 6  # two more than there are acts below: on a busy machine these come late
PROCESSES = ("RayTrainWorker", "Trainable.train")  # that may end: a worker's, the trial's


@pytest.fixture
def trunk(tiny_images, lite0_weights, tmp_path):
    return begin(tiny_images, lite0_weights, tmp_path, EPOCHS)


@pytest.fixture(scope="module")
def together(ray, tiny_images, lite0_weights, tmp_path_factory):
    """The trunk of two workers: stopped after its first epoch, and resumed."""
    root = tmp_path_factory.mktemp("together")
    trunk = begin(tiny_images, lite0_weights, root, EPOCHS)
    epochs, _ = run(trunk, root / "first", stop={"training_iteration": 1}, **TWO)
    state = read_state(trunk.folder / "state.pt")
    left = processes("RayTrainWorker")
    more, failures = run(trunk, root / "second", **TWO)
    found = vars(trunk) | {"stopped": state, "left": left, "epochs": [epochs, more]}
    return SimpleNamespace(**found, failures=failures)


def test_a_trunk_of_two_workers_is_about_that_of_one(together, trunk, tiny_images, tmp_path):
    alone = train_alone(trunk, tiny_images, tmp_path)
    assert together.failures == 0
    reports = recorded_reports(together.store, together.spec.key)
    for found, wanted in zip(reports, alone.reports, strict=True):
        assert found.images == wanted.images
        assert found.loss == pytest.approx(wanted.loss, rel=0.1)
    assert abs(reports[-1].val[32].hits1 - alone.reports[-1].val[32].hits1) <= 5


def test_stopped_workers_end_and_train_no_further_epoch(together):
    assert len(together.stopped["reports"]) == 1
    assert together.stopped["progress"] is None
    assert together.left == []
    assert together.epochs == [[1], [*range(1, EPOCHS + 1)]]


def test_whichever_process_is_preempted_or_killed_the_trunk_is_the_same(together, trunk, tmp_path):
    """What was preempted resumes within the epoch; a kill costs an epoch at most."""
    left: list[Any] = []
    acts = [lambda word=word: left.append(preempt(word, trunk)) for word in PROCESSES]
    acts += [lambda word=word: kill(word) for word in PROCESSES]
    with meanwhile(trunk, *acts):
        epochs, failures = run(trunk, tmp_path, **TWO)
    assert [is_saved(state) for state in left] == [True, True]
    assert failures == len(acts)
    # A retry reports again what the store holds.
    assert sorted(set(epochs)) == [*range(1, EPOCHS + 1)]
    assert same_weights(trunk.folder, together.folder)
    work = [line["steps"] for line in read_lines(trunk.folder / "work.jsonl")]
    assert work[:2] == [STEPS] * 2  # of what was preempted, none was made twice
    assert sum(work) <= STEPS * (EPOCHS + 2)
