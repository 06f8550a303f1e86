"""Time a few steps of training, to predict many: on this device, as a trial would take them."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from trainables.data.image_set import ImageSet
from trainables.models.device import CPU, device_name, pick_device
from trainables.models.weights import Weights
from trainables.profiling.cost import cost
from trainables.profiling.speed import Pass, Timing, Work
from trainables.profiling.speed_file import DeviceTimings
from trainables.storage.artifact_store import Store
from trainables.training.preemption import PreemptedError
from trainables.training.recipe import Hyper, Recipe
from trainables.training.trainer import TrunkTraining
from trainables.training.trunk import TrunkSpec

WARM_UP_STEPS = 2  # kernels are chosen and memory is found in them
LEAST_STEPS, LEAST_S = 3, 1.0


def time_training(
    variant: str, res: int, batch_size: int, images: ImageSet, cache: Path, threads: int
) -> DeviceTimings:
    """Time steps of a net from random weights, on the images that it would be trained on.

    Args:
        res: the train resolution, px.
        cache: node-local folder for test views.
        threads: CPU threads of a trial.
    """
    spec = TrunkSpec(
        variant=variant,
        train_res=res,
        weights=Weights(variant=variant, source="none", digest="none", name=None, classes=0),
        images=images.digest,
        recipe=Recipe(epochs=100, batch_size=batch_size, warmup_epochs=0.0),
        hyper=Hyper(lr=1e-6, weight_decay=0.0, label_smoothing=0.0),
        seed=0,
    )
    ends: list[float] = []  # when each step was over

    def is_enough() -> bool:
        ends.append(time.monotonic())
        steps = len(ends) - WARM_UP_STEPS
        return steps > LEAST_STEPS and ends[-1] - ends[WARM_UP_STEPS - 1] > LEAST_S

    with tempfile.TemporaryDirectory(prefix="fixres-probe-") as folder:
        training = TrunkTraining(
            spec,
            images,
            Store(Path(folder)),
            cache=cache,
            threads=threads,
            val_transforms=(),
            rungs=(),
            should_stop=is_enough,
        )
        try:
            while True:
                training.epoch()
        except PreemptedError:
            pass
    steps = len(ends) - WARM_UP_STEPS
    batch = min(batch_size, len(images.split("train")))
    net = cost(variant, res, len(images.classes))
    one = Pass(
        gmacs=net.gmacs,
        activations_m=net.activations_m,
        layers=net.layers,
        images=steps * batch,
        batch=batch,
        train=True,
    )
    seconds = ends[-1] - ends[WARM_UP_STEPS - 1]
    name = device_name(pick_device(), threads)
    timing = Timing(work=Work(passes=(one,)), seconds=seconds)
    return DeviceTimings(device=name, on_gpu=not name.startswith(CPU), timings=(timing,))
