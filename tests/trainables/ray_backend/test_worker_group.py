"""Trials of a trunk in a Ray of their own, some of them told to go in the middle of their work."""

import asyncio
import contextlib
import json
import logging
import shutil
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from ray.util.placement_group import (
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from trainables.data.options import ReadOptions
from trainables.models import variants
from trainables.models.weights import find_weights
from trainables.ray_backend.epoch_channel import EpochChannel
from trainables.ray_backend.placement_groups import remove_orphaned_groups
from trainables.ray_backend.tune_trainables import TrialContext, TrunkTrainable
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_lines, read_state
from trainables.training.recipe import Hyper, Recipe
from trainables.training.trainer import TrunkTraining
from trainables.training.trunk import TrunkSpec, epoch_report_from_json, recorded_reports
from trainables.transforms.eval_transform import EvalTransform

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
EPOCHS, BATCH, STEPS = 2, 4, 5  # steps an epoch, of 22 images
TWO: dict[str, Any] = {"workers": 2, "worker_resources": {"CPU": 1, "GPU": 0}}
SCORED = (EvalTransform(test_res=32, crop_pct=1.0, interpolation="bicubic"),)


@pytest.fixture(scope="module")
def ray():
    """On loopback, of this process alone."""
    quiet = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in quiet.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        import ray

        ray.init(
            address="local",
            include_dashboard=False,  # Ray Train's own cleaner does nothing without
            num_cpus=4,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=150_000_000,
            _node_ip_address="127.0.0.1",
            runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}},
        )
        yield ray
        ray.shutdown()


def begin(tiny_images, lite0_weights, root):
    """What a trial is given, and the store."""
    store = Store(root / "store")
    spec = TrunkSpec(
        variant="lite0",
        train_res=32,
        weights=find_weights(variants.get("lite0"), str(lite0_weights), store),
        images=tiny_images.digest,
        recipe=Recipe(epochs=EPOCHS, batch_size=BATCH, warmup_epochs=0.0, ema_decay=0.9),
        hyper=Hyper(lr=1e-3, weight_decay=0.05, label_smoothing=0.1),
        seed=0,
    )
    context = TrialContext(
        store=store.root,
        data=root / "nowhere",  # the cache has the images
        images_digest=tiny_images.digest,
        read=ReadOptions(),
        cache=tiny_images.root.parent,
        threads=1,
        rungs=(EPOCHS,),
    )
    return SimpleNamespace(spec=spec, context=context, store=store, folder=store.trunk(spec.key))


@pytest.fixture
def trunk(tiny_images, lite0_weights, tmp_path):
    return begin(tiny_images, lite0_weights, tmp_path)


@pytest.fixture
def alone(trunk, tiny_images, tmp_path):
    """The same, trained in this process in another store, undisturbed."""
    shutil.copytree(trunk.store.root, tmp_path / "alone")
    training = TrunkTraining(
        trunk.spec,
        tiny_images,
        Store(tmp_path / "alone"),
        cache=trunk.context.cache,
        threads=1,
        val_transforms=SCORED,
        rungs=trunk.context.rungs,
    )
    while training.trained_epochs < EPOCHS:
        training.epoch()
    return training


def run(trunk, folder, stop=None, **config: Any):
    """Train the trunk by Tune; the epochs told of, and how many tries failed."""
    from ray import tune

    epochs, failures = [], []

    class Listener(tune.Callback):
        def on_trial_result(self, iteration, trials, trial, result, **_):
            epochs.append(epoch_report_from_json(json.loads(result["report"])).epoch)

        def on_trial_recover(self, iteration, trials, trial, **_):
            failures.append(trial)

    found = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(TrunkTrainable, context=trunk.context),
            tune.PlacementGroupFactory([{"CPU": 1}]),
        ),
        param_space={"trunk": trunk.spec, "val_transforms": SCORED, **config},
        tune_config=tune.TuneConfig(trial_dirname_creator=lambda trial: trial.trial_id),
        run_config=tune.RunConfig(
            storage_path=str(folder / "tune"),
            stop=stop,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=3),
            callbacks=[Listener()],
        ),
    ).fit()
    assert not found.errors
    return epochs, len(failures)


def processes(word):
    """Of this Ray, those whose title holds ``word``."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if word in " ".join(process.cmdline()):
                found.append(process)
    return found


@contextlib.contextmanager
def meanwhile(trunk, act):
    """Call ``act`` in a thread, shortly after training has begun."""
    over = threading.Event()

    def wait():
        while not (trunk.folder / "spec.json").exists():
            if over.wait(0.02):
                return
        time.sleep(0.3)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def same_weights(one, other):
    one, other = (read_state(folder / "state.pt") for folder in (one, other))
    return all(one[part][k].equal(t) for part in ("model", "ema") for k, t in other[part].items())


def go(word, trunk):
    """Tell a process whose title holds ``word`` to go; what it leaves in the store."""
    process = processes(word)[0]
    process.send_signal(signal.SIGTERM)
    psutil.wait_procs([process], timeout=60)
    return read_state(trunk.folder / "state.pt")


def put_away(state):
    """Whether the work was: within an epoch, or, where the notice came just then, between two."""
    if state is None:
        return False
    progress = state["progress"]
    return 0 < progress["batches"] <= STEPS if progress else len(state["reports"]) > 0


def test_a_trial_that_is_told_to_go_goes_on_within_the_epoch_elsewhere(ray, trunk, alone, tmp_path):
    left = []
    with meanwhile(trunk, lambda: left.append(go("Trainable.train", trunk))):
        epochs, failures = run(trunk, tmp_path)
    assert [put_away(state) for state in left] == [True]
    assert failures == 1
    assert sorted(set(epochs)) == [1, 2]
    assert same_weights(trunk.folder, alone.folder)
    work = [line["steps"] for line in read_lines(trunk.folder / "work.jsonl")]
    assert work == [STEPS, STEPS]  # none was made twice
    reports = recorded_reports(trunk.store, trunk.spec.key)
    assert [r.val for r in reports] == [r.val for r in alone.reports]


@pytest.fixture(scope="module")
def together(ray, tiny_images, lite0_weights, tmp_path_factory):
    """The trunk of two workers: stopped after its first epoch, and gone on with."""
    root = tmp_path_factory.mktemp("together")
    trunk = begin(tiny_images, lite0_weights, root)
    epochs, _ = run(trunk, root / "first", stop={"training_iteration": 1}, **TWO)
    state = read_state(trunk.folder / "state.pt")
    left = processes("RayTrainWorker")
    more, failures = run(trunk, root / "second", **TWO)
    found = vars(trunk) | {"stopped": state, "left": left, "epochs": [epochs, more]}
    return SimpleNamespace(**found, failures=failures)


def test_a_trunk_of_two_workers_is_about_that_of_one(together, alone):
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
    assert together.epochs == [[1], [1, 2]]


@pytest.mark.parametrize("word", ["RayTrainWorker", "Trainable.train"])
def test_workers_go_on_within_the_epoch_whoever_is_told_to_go(together, trunk, tmp_path, word):
    left: list[Any] = []
    with meanwhile(trunk, lambda: left.append(go(word, trunk))):
        epochs, failures = run(trunk, tmp_path, **TWO)
    assert [put_away(state) for state in left] == [True]
    assert failures == 1
    assert sorted(set(epochs)) == [1, 2]  # a retry tells again what the store holds
    assert same_weights(trunk.folder, together.folder)
    work = [line["steps"] for line in read_lines(trunk.folder / "work.jsonl")]
    assert work == [STEPS, STEPS]


@pytest.mark.parametrize("ending", ["warn", "close"])
def test_who_waits_for_the_next_epoch_hears_that_there_is_none(ending):
    async def hear():
        mailbox = EpochChannel()
        await mailbox.ask(1)
        waiting = asyncio.create_task(mailbox.asked(2))
        await asyncio.sleep(0)
        await getattr(mailbox, ending)()
        late = [await mailbox.asked(epoch) for epoch in (1, 2)]
        return [await asyncio.wait_for(waiting, 5), *late]

    assert asyncio.run(hear()) == [False, True, False]


@pytest.mark.parametrize("word", ["RayTrainWorker", "Trainable.train"])
def test_whoever_is_killed_costs_an_epoch_at_most(together, trunk, tmp_path, word):
    with meanwhile(trunk, lambda: processes(word)[0].kill()):
        epochs, failures = run(trunk, tmp_path, **TWO)
    assert failures == 1
    assert sorted(set(epochs)) == [1, 2]
    assert same_weights(trunk.folder, together.folder)


def test_only_what_the_dead_reserved_is_released(ray):
    class Maker:
        def make(self):
            group = placement_group([{"CPU": 1}])
            ray.get(group.ready())
            return group

    makers = [ray.remote(num_cpus=0)(Maker).remote() for _ in range(2)]
    forsaken, used = ray.get([maker.make.remote() for maker in makers])
    own = placement_group([{"CPU": 1}])
    assert remove_orphaned_groups() == 0

    ray.kill(makers[0])
    deadline = time.monotonic() + 30
    while not remove_orphaned_groups():
        assert time.monotonic() < deadline
        time.sleep(0.05)

    states = [placement_group_table(group)["state"] for group in (forsaken, used, own)]
    assert states[0] == "REMOVED"
    assert "REMOVED" not in states[1:]
    assert remove_orphaned_groups() == 0
    for group in (used, own):
        remove_placement_group(group)
    ray.kill(makers[1])
