import time

import pytest
import torch

from trainables.training.distributed import WorkerGroup
from trainables.training.epoch_progress import EpochProgress
from trainables.training.train_step import StepResult, rng_state

CPU = torch.device("cpu")


def result(loss, hits):
    return StepResult(loss=torch.tensor(loss), hits=torch.tensor(hits))


def begun():
    progress = EpochProgress(CPU, WorkerGroup())
    progress.add(result(2.5, 3), 8)
    progress.add(result(1.25, 4), 8)
    return progress


def test_steps_add_up():
    progress = begun()
    assert (progress.batches, progress.images) == (2, 16)
    assert progress.totals() == (3.75, 7)
    assert type(progress.totals()[1]) is int


def test_small_losses_are_not_lost_beside_large_sums():
    progress = EpochProgress(CPU, WorkerGroup())
    for loss in (2.0**24, 1.0, 1.0):
        progress.add(result(loss, 0), 1)
    assert progress.totals()[0] == 2.0**24 + 2


def test_a_resumed_epoch_has_the_sums_the_seconds_and_the_draws(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    state = begun().state()
    drawn = torch.rand(3)
    torch.manual_seed(99)  # another process has another generator
    resumed = EpochProgress(CPU, WorkerGroup())
    resumed.restore(state)
    assert torch.equal(torch.rand(3), drawn)
    assert (resumed.batches, resumed.images, resumed.totals()) == (2, 16, (3.75, 7))
    assert resumed.seconds > state["seconds"] > 0


def test_a_state_is_plain_values_under_stored_names():
    state = begun().state()
    seconds = {"seconds", "probe_s", "probe_wait_s"}
    assert set(state) == {"batches", "seen", "loss", "hits", "rng", *seconds}
    assert (state["batches"], state["seen"], state["loss"], state["hits"]) == (2, 16, 3.75, 7)
    assert torch.equal(state["rng"], rng_state(CPU)[None])


def test_the_seconds_of_the_probe_are_kept_and_none_in_states_of_earlier_versions():
    state = EpochProgress(CPU, WorkerGroup(), probe_s=5.0, probe_wait_s=2.0).state()
    resumed = EpochProgress(CPU, WorkerGroup())
    resumed.restore(state)
    assert (resumed.probe_s, resumed.probe_wait_s) == (5.0, 2.0)
    del state["probe_s"], state["probe_wait_s"]
    resumed.restore(state)
    assert (resumed.probe_s, resumed.probe_wait_s) == (0.0, 0.0)


@pytest.mark.parametrize(("rank", "totals"), [(0, (3.75, 7)), (1, (0.0, 0)), (2, (0.0, 0))])
@pytest.mark.parametrize("rows", [1, 2])
def test_the_first_worker_takes_up_the_sums_and_all_the_first_ones_draws(rank, totals, rows):
    """However many workers there were: each left a row once."""
    states = []
    for seed in range(rows):
        torch.manual_seed(seed)
        states.append(rng_state(CPU))
    progress = EpochProgress(CPU, WorkerGroup(rank=rank))
    progress.restore({**begun().state(), "rng": torch.stack(states)})
    assert progress.totals() == totals
    assert torch.equal(rng_state(CPU), states[0])
