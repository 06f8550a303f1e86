"""What a refit is asked to do: the choice's own configuration, on other images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sweeps.execution import phases
from sweeps.execution.tasks import Phase
from sweeps.final_model import refit as refitting
from sweeps.final_model.refit import refit, refit_cell
from tests.factories import HYPER, a_row, plan_of, spec_with
from trainables.data.image_set import ImageSet
from trainables.errors import SweepError, UserError
from trainables.fixres.cell import RefitCell
from trainables.ray_backend import tune_trainables as trialling
from trainables.ray_backend.tune_trainables import (
    CellWork,
    StoreTrainable,
    TrialContext,
    TrunkWork,
)
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_json, write_tensors
from trainables.storage.hashing import to_jsonable
from trainables.training.trunk import EpochReport, TrunkSpec

PLAN = plan_of(spec_with(train_res=(64,), test_res=(96,), epochs=6, arms=("none", "fix")))
IMAGES = ImageSet(root=Path("/x"), digest=PLAN.images_digest, classes=("a",), rejected=(), notes=())
TRUNK = PLAN.trunk(PLAN.points[0], HYPER)
CHOSEN = a_row(trunk=TRUNK.key, cell="c", variant="b0", train_res=64, test_res=96, trunk_epochs=2)
CLUSTER: Any = SimpleNamespace(placement=None)


@pytest.fixture
def store(tmp_path: Path) -> Store[Path]:
    store = Store(tmp_path)
    write_json(store.trunk(TRUNK.key) / "spec.json", TRUNK)
    write_tensors(store.trunk(TRUNK.key) / "trunk.safetensors", {})
    return store


class Trials:
    """Stands for Ray: does at once what a trial would leave in the store."""

    def __init__(self, store: Store[Path], fail: str = ""):
        self.store, self.fail = store, fail
        self.trained: list[tuple[TrunkSpec, int]] = []
        self.adapted: list[Any] = []

    def run(self, kind: Any, phases: list[tuple[Phase, object]], context: TrialContext) -> None:
        ((phase, _),) = phases
        assert context.refit
        while (queued := phase.queue()) is not None:
            work = queued.work
            assert work is not None
            if self.fail:
                phase.failed(work, f"Traceback\n{self.fail}")
            elif isinstance(work, TrunkWork):
                assert kind is StoreTrainable and not work.val_transforms and not work.rungs
                self._train(work.trunk, phase.should_continue, work)
            else:
                assert kind is StoreTrainable and isinstance(work, CellWork)
                self.adapted.append(work.cell)
                write_json(self.store.cell(work.cell.key) / "rows.json", [])

    def _train(self, trunk: TrunkSpec, goes_on: Any, work: Any) -> None:
        reports = []
        for epoch in range(1, 100):
            reports.append(
                EpochReport(epoch=epoch, loss=1.0, train_top1=0.5, images=9, lr=0.1, seconds=1.0,
                            at=0)
            )  # fmt: skip
            if not goes_on(work, {"report": reports[-1]}):
                break
        self.trained.append((trunk, len(reports)))
        folder = self.store.trunk(trunk.key)
        write_json(folder / "spec.json", trunk)
        torch.save({"model": {}, "reports": to_jsonable(reports)}, folder / "state.pt")


def run(
    store: Store[Path],
    trials: Trials,
    monkeypatch: pytest.MonkeyPatch,
    row: Any = CHOSEN,
    **more: Any,
) -> Any:
    context = TrialContext(
        store=store.root, data=Path("/d"), images_digest=PLAN.images_digest, read=PLAN.spec.read,
        cache=Path("/c"),
    )  # fmt: skip
    monkeypatch.setattr(phases, "run_trials", trials.run)
    return refit(PLAN, row, IMAGES, store, context, CLUSTER, **more)


def test_the_same_configuration_for_as_many_epochs_on_all_images(
    store: Store[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = Trials(store)
    served = run(store, trials, monkeypatch)
    ((trunk, epochs),) = trials.trained
    assert trunk == replace(TRUNK, images=IMAGES.merged().digest) and epochs == 2
    (cell,) = trials.adapted
    assert cell == refit_cell(PLAN, CHOSEN, trunk, IMAGES.merged().digest).spec
    assert cell.arms == ("fix",) and cell.setting == CHOSEN.head is not None
    assert (served.cell.trunk, served.cell.spec, served.arm) == (trunk, cell, "fix")
    assert served.refit and served.cell.trunk_epochs == 2


def test_what_is_done_is_not_done_again(
    store: Store[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(store, Trials(store), monkeypatch)
    again = Trials(store)
    assert run(store, again, monkeypatch) == first
    assert again.trained == again.adapted == []


def test_a_pretrained_trunk_stays_as_it_is(
    store: Store[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = Trials(store)
    served = run(store, trials, monkeypatch, replace(CHOSEN, trunk_epochs=0))
    assert trials.trained == [] and len(trials.adapted) == 1 and served.cell.trunk == TRUNK


def test_a_failure_is_told_with_its_reason(
    store: Store[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SweepError, match=r"The refit of b0 64 -> 96 px, .* failed: out of luck"):
        run(store, Trials(store, fail="out of luck"), monkeypatch)


@pytest.mark.parametrize("settled", [False, True])
def test_a_refit_that_was_killed_goes_on(
    store: Store[Path], monkeypatch: pytest.MonkeyPatch, settled: bool
) -> None:
    """After the trunk's last epoch, or after its end: only the cell is left to do."""
    trials, again = Trials(store), Trials(store)
    with monkeypatch.context() as patch:
        patch.setattr(refitting, "refit_cell" if settled else "finalize_trunk", None)
        with pytest.raises(TypeError):
            run(store, trials, patch)
    assert len(trials.trained) == 1 and trials.adapted == []
    ((trunk, _),) = trials.trained
    assert (store.trunk(trunk.key) / "result.json").exists() == settled
    served = run(store, again, monkeypatch)
    assert again.trained == [] and [c.key for c in again.adapted] == [served.cell.key]
    assert (store.trunk(served.cell.trunk.key) / "result.json").exists()


def test_a_trunk_that_diverges_is_no_refit(
    store: Store[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Diverging(Trials):
        def _train(self, trunk: TrunkSpec, goes_on: Any, config: Any) -> None:
            lost = EpochReport(epoch=1, loss=None, train_top1=0.1, images=9, lr=0.1, seconds=1.0,
                               at=0, diverged=True)  # fmt: skip
            torch.save({"model": {}, "reports": to_jsonable([lost])}, self.path(trunk))

        def path(self, trunk: TrunkSpec) -> Path:
            folder = self.store.trunk(trunk.key)
            folder.mkdir(parents=True, exist_ok=True)
            return folder / "state.pt"

    trials = Diverging(store)
    with pytest.raises(SweepError, match="diverged"):
        run(store, trials, monkeypatch)
    assert trials.adapted == []
    assert not list(store.root.rglob("result.json"))


@pytest.mark.parametrize("arm", ["bn", "none"])
def test_an_arm_without_a_classifier_of_its_own_is_told_no_setting(arm: str) -> None:
    cell = refit_cell(PLAN, replace(a_row(arm=arm), test_res=96), TRUNK, "i").spec
    assert isinstance(cell, RefitCell) and cell.arms == (arm,) and cell.setting is None
    assert (cell.trunk, cell.images, cell.test_res) == (TRUNK.key, "i", 96)


@pytest.mark.parametrize("asked", [False, True])
def test_a_trial_opens_the_sweeps_images_and_a_refits_has_val_in_train(
    asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trialling, "prepare", lambda *_, **__: IMAGES)
    context = TrialContext(
        store=Path("/s"), data=Path("/d"), images_digest=IMAGES.digest, read=PLAN.spec.read,
        cache=Path("/c"), refit=asked,
    )  # fmt: skip
    assert context.open_images() == (IMAGES.merged() if asked else IMAGES)
    with pytest.raises(UserError, match="other images"):
        replace(context, images_digest="another").open_images()


def test_progress_is_told_in_epochs(store: Store[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    run(store, Trials(store), monkeypatch, progress=lambda *count: told.append(count))
    assert told == [(1, 2), (2, 2)]
