"""Specs and reports to and from JSON; a training state turned into a finished trunk."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.trainables.training.bare_trunk import SPEC, report
from trainables.evaluation.metrics import Score
from trainables.storage.artifact_store import Store
from trainables.storage.damage import DamagedFileError
from trainables.storage.files import write_json, write_state
from trainables.storage.hashing import canonical_json, content_hash, to_jsonable
from trainables.training import trunk
from trainables.training.trunk import (
    Parent,
    TrunkStatus,
    epoch_report_from_json,
    finalize_trunk,
    read_trunk_spec,
    read_trunk_weights,
    recorded_reports,
    trained_epochs,
    trunk_spec_from_json,
)
from trainables.transforms.augmentation import Augmentation


def score(hits):
    return Score(split="val", n=10, hits1=hits, hits5=10)


REPORTS = [report(1), report(2, val={32: score(4), 48: score(7)}, micro_batch=4)]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def in_training(store, **parts: Any):
    """A trunk's state between two epochs."""
    state: dict[str, Any] = {
        "model": {"w": torch.tensor([1.0])},
        "reports": to_jsonable(REPORTS),
        "progress": None,
    }
    write_json(store.trunk(SPEC.key) / "spec.json", SPEC)
    write_state(store.trunk(SPEC.key) / "state.pt", state | parts)
    return store.trunk(SPEC.key)


def test_a_spec_comes_back_from_its_file_with_its_key(store):
    in_training(store)
    found = read_trunk_spec(store, SPEC.key)
    assert found == SPEC and found.key == SPEC.key
    assert trunk_spec_from_json(json.loads(canonical_json(SPEC))) == SPEC


CHANGES: list[dict[str, Any]] = [
    {"variant": "lite1"},
    {"train_res": 64},
    {"images": "other"},
    {"seed": 1},
    {"repeat": 1},
    {"parent": Parent(trunk="0123456789abcdef", train_res=16)},
    {"hyper": replace(SPEC.hyper, lr=1e-3)},
    {"hyper": replace(SPEC.hyper, label_smoothing=0.0)},
    {"recipe": replace(SPEC.recipe, epochs=4)},
    {"recipe": replace(SPEC.recipe, augmentation=Augmentation(hflip=0.0))},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_part_of_a_spec_is_in_its_key(change):
    assert replace(SPEC, **change).key != SPEC.key


def test_the_first_training_has_the_key_and_the_seed_of_before_there_were_repeats():
    written = to_jsonable(SPEC)
    del written["repeat"]
    assert trunk_spec_from_json(written) == SPEC and SPEC.key == "0ed0d3c3651fdc60"
    assert SPEC.training_seed == SPEC.seed and SPEC.configuration == SPEC.key


def test_a_trunk_from_before_there_were_parents_has_the_same_key():
    written = to_jsonable(SPEC)
    del written["parent"]
    assert trunk_spec_from_json(written) == SPEC and SPEC.key == "0ed0d3c3651fdc60"


def test_a_parent_comes_back_from_its_file_and_repeats_share_it():
    child = replace(SPEC, parent=Parent(trunk=SPEC.key, train_res=16))
    found = trunk_spec_from_json(json.loads(canonical_json(child)))
    assert found == child and found.key == child.key
    again = replace(child, repeat=2)
    assert again.parent == child.parent and again.configuration == child.key


def test_repeats_have_a_configuration_in_common_and_a_seed_and_a_key_of_their_own():
    family = [replace(SPEC, seed=s, repeat=r) for s in (0, 1) for r in range(4)]
    assert len({one.training_seed for one in family}) == len({one.key for one in family}) == 8
    assert [one.configuration for one in family] == [f.key for f in family[::4] for _ in range(4)]
    assert all(0 <= one.training_seed < 2**31 for one in family)


@pytest.mark.parametrize("written", REPORTS)
def test_a_report_comes_back_from_its_json(written):
    assert epoch_report_from_json(json.loads(canonical_json(written))) == written


def test_a_report_from_before_micro_batches_is_read():
    written = to_jsonable(report(1))
    del written["micro_batch"]
    assert epoch_report_from_json(written) == report(1)


def test_the_best_val_score_is_the_one_with_most_hits():
    assert report(1, val={32: score(4), 48: score(7), 64: score(6)}).best_val == score(7)
    assert report(1).best_val is None


def test_trained_epochs_are_counted_without_scoring_as_epoch_0():
    assert trained_epochs([]) == trained_epochs([report(0)]) == 0
    assert trained_epochs(REPORTS) == 2


def test_reports_are_the_same_in_training_and_finished(store):
    assert recorded_reports(store, SPEC.key) == []
    in_training(store)
    assert recorded_reports(store, SPEC.key) == REPORTS
    finalize_trunk(store, SPEC.key, TrunkStatus.CUT)
    assert recorded_reports(store, SPEC.key) == REPORTS


@pytest.mark.parametrize("status", TrunkStatus)
def test_a_status_is_stored_as_its_plain_name(store, status):
    folder = in_training(store)
    finalize_trunk(store, SPEC.key, status)
    assert json.loads((folder / "result.json").read_text())["why"] == status.value
    plain = {"why": status.value}
    assert json.dumps(to_jsonable({"why": status})) == json.dumps(plain)
    assert canonical_json({"why": status}) == canonical_json(plain)
    assert content_hash({"why": status}) == content_hash(plain)


@pytest.mark.parametrize("parts", [{}, {"ema": {"w": torch.tensor([2.0])}}], ids=["model", "ema"])
def test_a_finished_trunk_is_the_average_where_there_is_one_and_finished_once(store, parts):
    folder = in_training(store, **parts)
    finalize_trunk(store, SPEC.key, TrunkStatus.FINISHED)
    wanted = parts.get("ema", {"w": torch.tensor([1.0])})
    found = read_trunk_weights(store, SPEC.key)
    assert found.keys() == wanted.keys() and torch.equal(found["w"], wanted["w"])
    files = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert set(files) == {"spec.json", "result.json", "trunk.safetensors"}
    finalize_trunk(store, SPEC.key, TrunkStatus.CUT)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == files


def test_finalizing_that_was_cut_short_is_done_again(store, monkeypatch):
    folder = in_training(store)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trunk, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            finalize_trunk(store, SPEC.key, TrunkStatus.FINISHED)
    assert recorded_reports(store, SPEC.key) == REPORTS
    finalize_trunk(store, SPEC.key, TrunkStatus.FINISHED)
    assert torch.equal(read_trunk_weights(store, SPEC.key)["w"], torch.tensor([1.0]))
    assert not (folder / "state.pt").exists()


def test_a_state_beside_the_finished_trunk_goes(store):
    """A kill between the last two steps leaves both."""
    folder = in_training(store)
    state = (folder / "state.pt").read_bytes()
    finalize_trunk(store, SPEC.key, TrunkStatus.FINISHED)
    (folder / "state.pt").write_bytes(state)
    finalize_trunk(store, SPEC.key, TrunkStatus.FINISHED)
    assert not (folder / "state.pt").exists()


def test_a_trunk_within_an_epoch_or_never_begun_is_not_finished(store):
    with pytest.raises(DamagedFileError, match=r"state.pt is damaged \(it is missing"):
        finalize_trunk(store, SPEC.key, TrunkStatus.FINISHED)
    in_training(store, progress={"batches": 1})
    with pytest.raises(DamagedFileError, match="within an epoch"):
        finalize_trunk(store, SPEC.key, TrunkStatus.CUT)


def test_a_trunk_that_is_not_there_has_no_spec(store):
    with pytest.raises(DamagedFileError, match=r"other/spec.json is damaged \(it is missing"):
        read_trunk_spec(store, "other")
