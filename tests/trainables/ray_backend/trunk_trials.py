"""Trials of a small trunk, run by Tune or alone, and processes of them that end amid their work."""

import contextlib
import shutil
import signal
import threading
import time
from types import SimpleNamespace
from typing import Any

import psutil

from tests.waiting import HANG_S
from trainables.data.options import ReadOptions
from trainables.models import variants
from trainables.models.weights import find_weights
from trainables.ray_backend.tune_trainables import StoreTrainable, TrialContext, TrunkWork
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_state
from trainables.training.recipe import Hyper, Recipe
from trainables.training.trainer import TrunkTraining
from trainables.training.trunk import TrunkSpec
from trainables.transforms.eval_transform import EvalTransform

EPOCHS, BATCH, STEPS = 2, 4, 5  # steps an epoch, of 22 images
VAL_TRANSFORMS = (EvalTransform(test_res=32, crop_pct=1.0, interpolation="bicubic"),)


def begin(tiny_images, lite0_weights, root, epochs=EPOCHS):
    """What a trial is given, and the store."""
    store = Store(root / "store")
    spec = TrunkSpec(
        variant="lite0",
        train_res=32,
        weights=find_weights(variants.get("lite0"), str(lite0_weights), store),
        images=tiny_images.digest,
        recipe=Recipe(epochs=epochs, batch_size=BATCH, warmup_epochs=0.0, ema_decay=0.9),
        hyper=Hyper(lr=1e-3, weight_decay=0.05, label_smoothing=0.1),
        seed=0,
    )
    context = TrialContext(
        store=store.root,
        data=root / "nowhere",  # the cache has the images
        images_digest=tiny_images.digest,
        read=ReadOptions(),
        cache=tiny_images.root.parent,
    )
    return SimpleNamespace(spec=spec, context=context, store=store, folder=store.trunk(spec.key))


def train_alone(trunk, tiny_images, root):
    """The same trunk, trained in this process in another store, undisturbed."""
    shutil.copytree(trunk.store.root, root / "alone")
    training = TrunkTraining(
        trunk.spec,
        tiny_images,
        Store(root / "alone"),
        cache=trunk.context.cache,
        threads=1,
        val_transforms=VAL_TRANSFORMS,
        rungs=(trunk.spec.recipe.epochs,),
    )
    while training.trained_epochs < trunk.spec.recipe.epochs:
        training.epoch()
    return training


def work_of(spec):
    return TrunkWork(trunk=spec, val_transforms=VAL_TRANSFORMS, rungs=(spec.recipe.epochs,))


def run(trunk, folder, stop=None, **config: Any):
    """Train the trunk by Tune; the epochs that it reports, and how many tries failed."""
    from ray import tune

    epochs, failures = [], []

    class Listener(tune.Callback):
        def on_trial_result(self, iteration, trials, trial, result, **_):
            epochs.append(result["report"].epoch)

        def on_trial_recover(self, iteration, trials, trial, **_):
            failures.append(trial)

    results = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(StoreTrainable, context=trunk.context),
            tune.PlacementGroupFactory([{"CPU": 1}]),
        ),
        param_space={"work": work_of(trunk.spec), **config},
        tune_config=tune.TuneConfig(trial_dirname_creator=lambda trial: trial.trial_id),
        run_config=tune.RunConfig(
            storage_path=str(folder / "tune"),
            stop=stop,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=4),
            callbacks=[Listener()],
        ),
    ).fit()
    assert not results.errors
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
def meanwhile(trunk, *acts):
    """Call each of ``acts`` in a thread, shortly after training has begun, and begun again.

    Each of them ends processes of the trial.
    """
    over = threading.Event()
    spec, state = trunk.folder / "spec.json", trunk.folder / "state.pt"

    def saved():
        return state.stat().st_mtime_ns if state.exists() else None

    def act_in_turn():
        before = saved()
        for act in acts:
            # Without a state to go on from, a training writes its spec first of all.
            while not (spec.exists() if before is None else saved() != before):
                if over.wait(0.02):
                    return
            time.sleep(0.3)
            workers = processes("RayTrainWorker")
            act()
            psutil.wait_procs(workers, timeout=HANG_S)
            before = saved()
            spec.unlink(missing_ok=True)

    thread = threading.Thread(target=act_in_turn)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def same_weights(one, other):
    one, other = (read_state(folder / "state.pt") for folder in (one, other))
    return all(one[part][k].equal(t) for part in ("model", "ema") for k, t in other[part].items())


def preempt(word, trunk):
    """Send SIGTERM to a process whose title holds ``word``; what it leaves in the store."""
    process = processes(word)[0]
    process.send_signal(signal.SIGTERM)
    psutil.wait_procs([process], timeout=HANG_S)
    return read_state(trunk.folder / "state.pt")


def kill(word):
    """Send SIGKILL to a process whose title holds ``word``."""
    processes(word)[0].kill()


def is_saved(state):
    """Whether the work was: within an epoch or, where the signal came just then, between two."""
    if state is None:
        return False
    progress = state["progress"]
    return 0 < progress["batches"] <= STEPS if progress else len(state["reports"]) > 0
