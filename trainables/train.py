"""Train one trunk by itself, without Ray or MLflow: ``python -m trainables.train --help``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from trainables.data.decode import prepare
from trainables.data.options import ReadOptions
from trainables.errors import UserError
from trainables.models import variants
from trainables.models.weights import find_weights
from trainables.storage.artifact_store import Store
from trainables.storage.object_store import place_of
from trainables.training.preemption import PreemptionGuard
from trainables.training.recipe import Hyper, Recipe
from trainables.training.trainer import TrunkTraining
from trainables.training.trunk import TrunkSpec, TrunkStatus, finalize_trunk, recorded_reports
from trainables.transforms.eval_transform import EvalTransform
from trainables.transforms.resolution import TEST_CROP_PCT


def _whole(test_res: int, variant: variants.Variant) -> EvalTransform:
    interpolation = variants.preprocessing(variant).interpolation
    return EvalTransform(test_res=test_res, crop_pct=TEST_CROP_PCT, interpolation=interpolation)


def main() -> None:
    """Train one trunk by itself, without Ray or MLflow."""
    parser = argparse.ArgumentParser(
        prog="python -m trainables.train",
        description="Fine-tune one EfficientNet at one train resolution; score it at others.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=place_of, required=True, help="images: a folder, or a URI")
    parser.add_argument("--store", type=place_of, required=True, help="where the trunk is kept")
    parser.add_argument("--cache", type=Path, required=True, help="where decoded images are kept")
    parser.add_argument("--variant", default="b0", help="b0..b8, b0_ap..b7_ap, l2, lite0..lite4")
    parser.add_argument("--weights", default="auto", help="auto, none, or a folder")
    parser.add_argument("--train-res", type=int, default=224, help="px")
    parser.add_argument("--test-res", type=int, nargs="+", default=[224, 288], help="px")
    parser.add_argument("--epochs", type=int, default=20, help="epochs")
    parser.add_argument("--batch-size", type=int, default=32, help="images a step")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    parser.add_argument("--seed", type=int, default=0, help="of splits, order and start")
    try:
        asked = parser.parse_args()
        images = prepare(asked.data, asked.cache, ReadOptions(seed=asked.seed))
        store = Store(asked.store)
        variant = variants.get(asked.variant)
        spec = TrunkSpec(
            variant=variant.name,
            train_res=asked.train_res,
            weights=find_weights(variant, asked.weights, store),
            images=images.digest,
            recipe=Recipe(epochs=asked.epochs, batch_size=asked.batch_size),
            hyper=Hyper(lr=asked.lr, weight_decay=1e-2, label_smoothing=0.1),
            seed=asked.seed,
        )
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    torch.set_num_threads(asked.threads)
    if not (store.trunk(spec.key) / "result.json").exists():
        notice = PreemptionGuard()
        notice.install()
        training = TrunkTraining(
            spec,
            images,
            store,
            cache=asked.cache,
            threads=asked.threads,
            val_transforms=tuple(_whole(res, variant) for res in asked.test_res),
            rungs=(asked.epochs,),
            should_stop=lambda: notice.requested,
        )
        while training.trained_epochs < asked.epochs:
            with notice.deferred():
                report = training.epoch()
            print(f"epoch {report.epoch}: loss {report.loss}, {report.seconds} s")
        finalize_trunk(store, spec.key, TrunkStatus.FINISHED)
    for res, scored in recorded_reports(store, spec.key)[-1].val.items():
        print(f"val top-1 at {res} px: {100 * scored.top1:.1f} % (n={scored.n})")
    print(f"trunk: {store.trunk(spec.key)}")


if __name__ == "__main__":
    main()
