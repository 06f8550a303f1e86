"""Train one trunk by itself, without Ray or MLflow: ``python -m trainables.train --help``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

import torch

from trainables.data.decode import prepare
from trainables.data.options import ReadOptions
from trainables.errors import exit_code, with_option_names
from trainables.machine import available_cores
from trainables.models import variants
from trainables.models.device import DEVICE_KINDS, named_device
from trainables.models.imagenet import with_fitting_classifier
from trainables.models.parts.dividing import names_in
from trainables.models.weights import find_weights
from trainables.sources.class_names import class_order_of
from trainables.sources.layout import LayoutChoice
from trainables.storage.artifact_store import Store
from trainables.storage.full_disk import full_disk_told
from trainables.storage.object_store import place_of
from trainables.training.class_balance import check_balance
from trainables.training.preemption import PreemptionGuard
from trainables.training.recipe import ClassWeights, Hyper, Recipe, Sampling
from trainables.training.trainer import TrunkTraining
from trainables.training.trunk import TrunkSpec, TrunkStatus, finalize_trunk, recorded_reports
from trainables.transforms.eval_transform import EvalTransform
from trainables.transforms.resolution import TEST_CROP_PCT

# What errors name: options, and plain words for what has no option here.
SETTING_NAMES = {
    "accelerator_type": "kind of GPUs",
    "arms": "arms",
    "drop_path": "share of skipped blocks",
    "gpu_memory_gb": "memory of the smallest GPU in GB",
    "map_gb": "GB of maps that are kept",
    "speed_ups": "what speeds training up",
    "optimizer": "optimizer",
    "also_test": "further set of images",
    "batch_size": "--batch-size",
    "cache_dir": "--cache",
    "class_order": "--class-order",
    "class_weights": "--class-weights",
    "data": "--data",
    "group_by": "--group-by",
    "layout": "--layout",
    "precision": "precision",
    "sampling": "--sampling",
    "test_res": "--test-res",
    "train_res": "--train-res",
    "variant": "--variant",
    "weights": "--weights",
    "cache_gb": "limit on the cache in GB",
    "cache_side": "size of stored images",
    "latency": "file of latencies",
    "latency_runtime": "runtime that latency is measured in",
    "max_corrupt": "the tolerated share",
    "pick_share": "share of images to pick by",
    "test_crop_pct": "crop ratio of testing",
    "test_share": "share of test images",
    "val_share": "share of val images",
    "workers_per_trial": "number of workers",
}


def main() -> None:
    """Parse the command line, train, and end with code 2 for bad input, 1 for other failures."""
    code = exit_code(
        lambda: _train_or_say_why(_parser().parse_args()),
        lambda message: with_option_names(message, SETTING_NAMES),
    )
    if code:
        sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainables.train",
        description="Fine-tune one EfficientNet at one train resolution; score it at others.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=place_of, required=True, help="images: a folder, or a URI")
    parser.add_argument("--layout", choices=get_args(LayoutChoice), default=ReadOptions.layout)
    parser.add_argument("--class-order", default="string", help="string, natural or a file")
    parser.add_argument("--group-by", help="column, or pattern with one (group): shares a split")
    parser.add_argument("--store", type=place_of, required=True, help="where the trunk is kept")
    parser.add_argument("--cache", type=Path, required=True, help="where decoded images are kept")
    parser.add_argument(
        "--variant", default="b0", help="b0..b8, b0_ap..b7_ap, l2, lite0..lite4, timm:NAME"
    )
    parser.add_argument("--weights", default="auto", help="auto, none, or a folder")
    parser.add_argument("--train-res", type=int, default=224, help="px")
    parser.add_argument("--test-res", type=int, nargs="+", default=[224, 288], help="px")
    parser.add_argument("--epochs", type=int, default=20, help="epochs")
    parser.add_argument("--batch-size", type=int, default=32, help="images a step")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--sampling", choices=get_args(Sampling), default=Recipe.sampling)
    parser.add_argument(
        "--class-weights", choices=get_args(ClassWeights), default=Recipe.class_weights
    )
    parser.add_argument("--threads", type=int, default=available_cores(), help="CPU threads")
    kinds = ("auto", *DEVICE_KINDS)
    parser.add_argument("--device", choices=kinds, default="auto", help="auto: a GPU, else a CPU")
    parser.add_argument("--seed", type=int, default=0, help="of splits, order and start")
    return parser


def _train_or_say_why(options: argparse.Namespace) -> None:
    with full_disk_told(options.store):
        _train(options)


def _train(options: argparse.Namespace) -> None:
    """Train the trunk unless the store holds it finished, and print its scores on val.

    Raises:
        UserError: the variant, its weights, the images or the cache are not usable, or classes are
            balanced twice.
        SweepError: memory does not suffice, or the store did not answer for long.
    """
    check_balance(options.sampling, options.class_weights)
    device = named_device(options.device)
    variant = variants.get(options.variant)
    names_in(variant)  # ends here if FixRes cannot divide it
    reading = ReadOptions(
        seed=options.seed,
        layout=options.layout,
        class_order=class_order_of(options.class_order),
        group_by=options.group_by,
    )
    images = prepare(options.data, options.cache, reading)
    store = Store(options.store)
    spec = TrunkSpec(
        variant=variant.name,
        train_res=options.train_res,
        weights=with_fitting_classifier(
            find_weights(variant, options.weights, store), images.classes
        ),
        images=images.digest,
        recipe=Recipe(
            epochs=options.epochs,
            batch_size=options.batch_size,
            sampling=options.sampling,
            class_weights=options.class_weights,
        ),
        hyper=Hyper(lr=options.lr, weight_decay=1e-2, label_smoothing=0.1),
        seed=options.seed,
    )
    for note in images.notes:
        print(note, file=sys.stderr)
    torch.set_num_threads(options.threads)
    if not (store.trunk(spec.key) / "result.json").exists():
        guard = PreemptionGuard()
        guard.install()
        training = TrunkTraining(
            spec,
            images,
            store,
            cache=options.cache,
            threads=options.threads,
            val_transforms=tuple(_full_image_transform(res, variant) for res in options.test_res),
            rungs=(options.epochs,),
            should_stop=lambda: guard.requested,
            device=device,
        )
        while training.trained_epochs < options.epochs:
            with guard.deferred():
                report = training.epoch()
            print(f"epoch {report.epoch}: loss {report.loss}, {report.seconds} s")
        finalize_trunk(store, spec.key, TrunkStatus.FINISHED)
    for res, score in recorded_reports(store, spec.key)[-1].val.items():
        print(f"val top-1 at {res} px: {100 * score.top1:.1f} % (n={score.n})")
    print(f"trunk: {store.trunk(spec.key)}")


def _full_image_transform(test_res: int, variant: variants.Variant) -> EvalTransform:
    """Make the test transform of the whole short side, in the interpolation of the weights."""
    interpolation = variants.preprocessing(variant).interpolation
    return EvalTransform(test_res=test_res, crop_pct=TEST_CROP_PCT, interpolation=interpolation)


if __name__ == "__main__":
    main()
