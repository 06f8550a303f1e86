"""State saved and resumed; workers but the first only read."""

import copy
import json

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from tests.trainables.training.bare_trunk import SPEC, report
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_lines, read_state
from trainables.training.distributed import WorkerGroup
from trainables.training.trunk import (
    TrunkStatus,
    finalize_trunk,
    trunk_spec_from_json,
)
from trainables.training.trunk_checkpoint import TrainingPosition, TrunkCheckpoint

ALONE = WorkerGroup()


class Training:
    """A model that has taken a step, and its checkpoint."""

    def __init__(self, store, group=ALONE, ema=True, seed=0):
        torch.manual_seed(seed)
        self.model = nn.Linear(4, 2)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1 + seed)
        self.ema = ModelEmaV3(self.model, decay=0.5) if ema else None
        self.model(torch.randn(3, 4)).square().sum().backward()
        self.optimizer.step()
        self.checkpoint = TrunkCheckpoint(
            store,
            SPEC,
            model=self.model,
            optimizer=self.optimizer,
            ema=self.ema,
            group=group,
        )

    def states(self):
        ema = self.ema.module.state_dict() if self.ema else {}
        return copy.deepcopy([self.model.state_dict(), self.optimizer.state_dict(), ema])


def same(one, other):
    return json.dumps(one, default=torch.Tensor.tolist) == json.dumps(
        other, default=torch.Tensor.tolist
    )


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def test_a_training_that_was_not_begun_leaves_its_spec_and_starts_where_it_is(store):
    training = Training(store)
    before = training.states()
    assert training.checkpoint.resume() == TrainingPosition()
    assert same(training.states(), before)
    (path,) = store.trunk(SPEC.key).iterdir()
    assert path.name == "spec.json"
    assert trunk_spec_from_json(json.loads(path.read_text())) == SPEC


@pytest.mark.parametrize("ema", [True, False])
def test_what_was_saved_is_resumed_by_another_process(store, ema):
    saved, resumed = Training(store, ema=ema), Training(store, ema=ema, seed=1)
    progress = {"batches": 2, "rng": torch.arange(3)}
    position = TrainingPosition(
        reports=(report(1), report(2)), epoch_progress=progress, steps=4, micro_batch=2
    )
    saved.checkpoint.save(position)
    assert not same(resumed.states(), saved.states())
    found = resumed.checkpoint.resume()
    assert same(resumed.states(), saved.states())
    assert same(found.epoch_progress, progress)
    assert (found.reports, found.steps, found.micro_batch) == (position.reports, 4, 2)


def test_a_state_holds_plain_values_under_their_names(store):
    training = Training(store)
    training.checkpoint.save(TrainingPosition(reports=(report(1),), steps=3))
    state = read_state(store.trunk(SPEC.key) / "state.pt")
    assert state is not None
    assert list(state) == [
        "model",
        "optimizer",
        "reports",
        "micro_batch",
        "progress",
        "steps",
        "ema",
    ]
    assert (state["micro_batch"], state["progress"], state["steps"]) == (None, None, 3)
    assert state["reports"] == [vars(report(1))]


def test_a_state_of_before_micro_batches_and_saves_within_an_epoch_is_resumed(store):
    training = Training(store, ema=False)
    state = {
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "reports": [vars(report(1))],
    }
    folder = store.trunk(SPEC.key)
    folder.mkdir(parents=True)
    torch.save(state, folder / "state.pt")
    assert training.checkpoint.resume() == TrainingPosition(reports=(report(1),))


def test_a_finished_trunk_is_not_resumed(store):
    training = Training(store)
    training.checkpoint.resume()
    training.checkpoint.save(TrainingPosition(reports=(report(1),)))
    finalize_trunk(store, SPEC.key, TrunkStatus.FINISHED)
    with pytest.raises(ValueError, match=f"trunk {SPEC.key} is finished"):
        training.checkpoint.resume()


def test_epochs_are_logged_one_by_one_and_again_when_trained_again(store):
    checkpoint = Training(store).checkpoint
    for epoch, steps in ((1, 5), (2, 5), (2, 8)):
        checkpoint.log_epoch(report(epoch), steps)
    lines = read_lines(store.trunk(SPEC.key) / "work.jsonl")
    assert [(line["epoch"], line["steps"]) for line in lines] == [(1, 5), (2, 5), (2, 8)]
    assert all((line["seconds"], line["at"]) == (1.5, 7) for line in lines)


def test_only_the_first_worker_writes_and_the_others_wait(store):
    class Second(WorkerGroup):
        def barrier(self):
            waited.append(1)

    waited: list[int] = []
    checkpoint = Training(store, Second(rank=1, world_size=2)).checkpoint
    assert checkpoint.resume() == TrainingPosition()
    checkpoint.log_epoch(report(1), 5)
    checkpoint.save(TrainingPosition(reports=(report(1),)))
    assert waited == [1]
    assert not store.trunk(SPEC.key).exists()
