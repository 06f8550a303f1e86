"""Compare ways to train on uneven classes: as they are, drawn alike, or weighed in the loss.

    python benchmarks/class_balance.py IMAGES --weights WEIGHTS [--seeds 3] [--epochs 6] [--res 48]

IMAGES is a folder of class folders whose classes are about even. For each seed they are split into
train, val and test (60, 15 and 25 %), and of three classes, drawn anew, a tenth of train and of val
stays. On each, EfficientNet-Lite0 is trained three times, all else alike: as it is, with balanced
sampling, and with balanced class weights; each trunk is then fixed at its train resolution, its
classifier without class weights and with balanced ones. Val picks the classifiers' settings by
macro-F1.

All lines are of test, which nothing was picked on. It is left even, so that a rare class has as
many images as any; top-1 and macro-F1 are of images as frequent as train's, each counting for its
class's share of train. A line has the means over the seeds, in %, and in brackets the difference
from the same of the first line with the standard error of its mean over the seeds:

    top-1, balanced accuracy, macro-F1    and the recall of the rare classes and of the others
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainables.data.decode import prepare
from trainables.data.image_set import ImageSet
from trainables.data.options import ReadOptions
from trainables.data.view_cache import ViewCache
from trainables.evaluation.class_metrics import ClassCounts
from trainables.fixres.adapt import adapt_cell
from trainables.fixres.cell import CellSpec
from trainables.fixres.head_settings import HeadGrid
from trainables.fixres.held_out_score import HeldOutSet, held_out_predictions, score_held_out
from trainables.models import variants
from trainables.models.imagenet import with_fitting_classifier
from trainables.models.weights import find_weights
from trainables.storage.artifact_store import Store
from trainables.training.recipe import ClassWeights, Hyper, Recipe, Sampling
from trainables.training.trainer import TrunkTraining
from trainables.training.trunk import TrunkSpec, TrunkStatus, finalize_trunk
from trainables.transforms.augmentation import Augmentation
from trainables.transforms.eval_transform import EvalTransform

SPLITS = {"train": 0.6, "val": 0.15}  # the rest is test
RARE, KEPT = 3, 0.1  # classes, and the share that stays of their images
TRUNKS: dict[str, tuple[Sampling, ClassWeights]] = {
    "as they are": ("uniform", "none"),
    "drawn alike": ("balanced", "none"),
    "weighed": ("uniform", "balanced"),
}
HEADS: tuple[ClassWeights, ...] = ("none", "balanced")
BATCH, THREADS = 32, 2
VARIANT = variants.get("lite0")
NAMES = ("top-1", "balanced accuracy", "macro-F1", "recall of rare", "of others")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="a folder of class folders")
    parser.add_argument("--weights", default="auto", help="of Lite0: auto, or a folder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--res", type=int, default=48, help="px, of train and test")
    args = parser.parse_args()
    found: dict[tuple[str, str], list[list[float]]] = {}
    for seed in range(args.seeds):
        with tempfile.TemporaryDirectory() as folder:
            for name, values in _rows(Path(folder), args, seed):
                found.setdefault(name, []).append(values)
                print(seed, *name, *(f"{value:.1f}" for value in values), sep="\t", flush=True)
    print("\n".join(_table(found)))


def _rows(
    folder: Path, args: argparse.Namespace, seed: int
) -> Iterator[tuple[tuple[str, str], list[float]]]:
    """Give trunk and classifier of each line, and its values in %, of one seed."""
    rare = _write_uneven(args.images, folder / "images", seed)
    images = prepare(folder / "images", folder / "cache", ReadOptions())
    store = Store(folder / "store")
    views = ViewCache(images=images, cache=folder / "cache", threads=THREADS)
    for name, balance in TRUNKS.items():
        trunk = _trained(images, store, folder / "cache", args, seed, balance)
        for weights in HEADS:
            cell = _cell(trunk, args.res, seed, weights)
            adapt_cell(cell, store, views)
            arms = {"none": "as trained", "fix": f"fixed, class weights {weights}"}
            for arm, words in arms.items() if weights == HEADS[0] else [("fix", arms["fix"])]:
                yield (name, words), _values(images, cell, arm, store, views, rare)


def _write_uneven(data: Path, out: Path, seed: int) -> list[str]:
    """Copy images into splits, few of three classes; return these."""
    rng = np.random.default_rng(seed)
    classes = sorted(path.name for path in data.iterdir() if path.is_dir())
    rare = sorted(rng.choice(classes, RARE, replace=False).tolist())
    for name in classes:
        files = rng.permutation(sorted(path.name for path in (data / name).iterdir())).tolist()
        begin = 0
        for split in ("train", "val", "test"):
            count = round(SPLITS[split] * len(files)) if split in SPLITS else len(files) - begin
            kept = count if name not in rare or split == "test" else max(1, round(KEPT * count))
            (out / split / name).mkdir(parents=True)
            for file in files[begin : begin + kept]:
                shutil.copyfile(data / name / file, out / split / name / file)
            begin += count
    return rare


def _trained(
    images: ImageSet,
    store: Store,
    cache: Path,
    args: argparse.Namespace,
    seed: int,
    balance: tuple[Sampling, ClassWeights],
) -> TrunkSpec:
    sampling, weights = balance
    spec = TrunkSpec(
        variant=VARIANT.name,
        train_res=args.res,
        weights=with_fitting_classifier(find_weights(VARIANT, args.weights, store), images.classes),
        images=images.digest,
        recipe=Recipe(
            epochs=args.epochs,
            batch_size=BATCH,
            augmentation=Augmentation(hflip=0.0),
            sampling=sampling,
            class_weights=weights,
        ),
        hyper=Hyper(lr=2e-3, weight_decay=0.01, label_smoothing=0.1),
        seed=seed,
    )
    training = TrunkTraining(
        spec, images, store, cache=cache, threads=THREADS, val_transforms=(), rungs=()
    )
    while training.trained_epochs < args.epochs:
        training.epoch()
    finalize_trunk(store, spec.key, TrunkStatus.FINISHED)
    return spec


def _cell(trunk: TrunkSpec, res: int, seed: int, weights: ClassWeights) -> CellSpec:
    own = variants.preprocessing(VARIANT)
    return CellSpec(
        trunk=trunk.key,
        transform=EvalTransform(
            test_res=res, crop_pct=own.crop_pct, interpolation=own.interpolation
        ),
        arms=("none", "fix"),
        heads=HeadGrid(
            lr=(0.001, 0.003, 0.01, 0.03, 0.1),
            label_smoothing=(0.0, 0.1),
            epochs=30,
            patience=5,
            batch_size=64,
            metric="macro_f1",
            class_weights=(weights,),
        ),
        views=1,
        batch_size=BATCH,
        seed=seed,
    )


def _values(
    images: ImageSet, cell: CellSpec, arm: str, store: Store, views: ViewCache, rare: list[str]
) -> list[float]:
    """Score an arm on test: the columns of the table, in %."""
    split, count = images.split("test"), len(images.classes)
    held_out = HeldOutSet(
        name="test", images=split, digest=images.digest, present=tuple(range(count))
    )
    score_held_out(held_out, store, cell, (arm,), views)
    found = held_out_predictions(held_out, store, cell, arm)
    of_train = np.bincount(images.split("train").labels, minlength=count)
    weight = (of_train / of_train.sum() / np.bincount(found.labels, minlength=count))[found.labels]
    hit = found.labels == found.predicted

    def sums(classes: np.ndarray, chosen: slice | np.ndarray) -> np.ndarray:
        return np.bincount(classes[chosen], weights=weight[chosen], minlength=count)

    everything = slice(None)
    counts = ClassCounts(
        images=sums(found.labels, everything),
        predicted=sums(found.predicted, everything),
        hits=sums(found.labels, hit),
    )
    is_rare = np.isin(images.classes, rare)
    shares = [
        *(float(counts.value(metric)) for metric in ("top1", "balanced_accuracy", "macro_f1")),
        float(counts.recall[is_rare].mean()),
        float(counts.recall[~is_rare].mean()),
    ]
    return [100 * share for share in shares]


def _table(found: dict[tuple[str, str], list[list[float]]]) -> list[str]:
    """Lay out the means over the seeds, and how far each is from the first line's."""
    lines = [f"| trunk | classifier | {' | '.join(NAMES)} |", f"|---|---|{'---:|' * len(NAMES)}"]
    base = np.array(next(iter(found.values())))
    for name, values in found.items():
        cells = []
        for own, first in zip(np.array(values).T, base.T, strict=True):
            gains = own - first
            error = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else np.nan
            cells.append(
                f"{own.mean():.1f}"
                + (f" ({gains.mean():+.1f} ± {error:.1f})" if gains.any() else "")
            )
        lines.append(f"| {' | '.join((*name, *cells))} |")
    return lines


if __name__ == "__main__":
    main()
