"""Train with one option more each time, on small sets: what each gives test, and what it costs.

    nice -n 19 python benchmarks/training_options.py [--photographs FOLDER] [--seeds 2]
    ... --only untouched freeze-batch-norm --lr 3e-4 1e-3 3e-3 --sets scans --res 64

Sets are the built-in digits on photographs, scikit-learn's scans of digits as they are, and a
folder of class folders, if one is given. Of each, some images that are the same for all seeds are
held out, and a few of the others, drawn anew for each seed, are trained on: Lite0 with ImageNet's
weights, at one resolution, with the smoothing in the middle of what a sweep searches by default,
and at each of the learning rates of --lr; unless it is given, at the middle of those of few steps.

A line is an option, or several. Top-1 is that of the net as trained, and of its body with a
classifier fitted anew on the train images in the test transform, as the fix fits one (here by a
linear probe: no val is needed); the lines of the untouched net have the latter alone, with batch
norms as they come, and with statistics of the train images in their place. Beside it is the
difference from the default with the 95 % interval of 2,000 resamplings of seeds and of images;
last, the CPU's seconds of a training against the default's. --only NAME ... runs some lines.

A search tries several learning rates, and the best of them counts. So with several the differences
are from the default at its best one, by the refitted classifier. That one is picked by the images
that are held out, as is whichever line one looks at: all lines have the same advantage of it.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainables.data import builtin_digits
from trainables.data.decode import prepare
from trainables.data.image_set import ImageSet
from trainables.data.options import ReadOptions
from trainables.evaluation.inference import outputs_of
from trainables.evaluation.linear_probe import Probe, features_of, fit_probe
from trainables.models import backbone, variants
from trainables.models.imagenet import with_fitting_classifier
from trainables.models.weights import find_weights
from trainables.storage.artifact_store import Store
from trainables.training.recipe import Hyper, Recipe
from trainables.training.trainer import TrunkTraining
from trainables.training.trunk import TrunkSpec
from trainables.transforms.augmentation import Augmentation
from trainables.transforms.eval_transform import EvalTransform
from trainables.transforms.resolution import TEST_CROP_PCT

VARIANT = variants.get("lite0")
BATCH, THREADS = 32, 1
CPU = torch.device("cpu")
MIDDLE = Hyper(lr=2e-3, weight_decay=1e-2, label_smoothing=0.1)
SMALL, LARGER = 32, 64  # px, unless --res is given: the scans have 8, the digits are small
SETS = ("photographs", "scans", "digits")
RESAMPLINGS = 2000
DEFAULT, UNTOUCHED = "default", "untouched"
OWN_STATISTICS = "untouched, statistics of these images"
LINES: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    UNTOUCHED: {"epochs": 0},
    OWN_STATISTICS: {"epochs": 0},
    "auto-augment rand": {"auto_augment": "rand"},
    "auto-augment trivial": {"auto_augment": "trivial"},
    "mixup 0.2": {"mixup": 0.2},
    "cutmix 1": {"cutmix": 1.0},
    "random-erasing 0.25": {"random_erasing": 0.25},
    "drop-path 0.2": {"drop_path": 0.2},
    "layer-decay 0.75": {"layer_decay": 0.75},
    "clip-grad 1": {"clip_grad": 1.0},
    "ema-decay 0.99, ema-warmup": {"ema_decay": 0.99, "ema_warmup": True},
    "freeze-batch-norm": {"freeze_batch_norm": True},
    "head-only-epochs 1": {"head_only_epochs": 1},
    "start probe": {"start": "probe"},
    "start probe, freeze-batch-norm": {"start": "probe", "freeze_batch_norm": True},
}


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A set of images to draw from."""

    name: str
    files: Mapping[str, Sequence[Path]]  # by class
    res: int  # px, of train and test


@dataclass(frozen=True, order=True)
class Line:
    """A line of the table: options by their name in ``LINES``, and the peak learning rate."""

    options: str
    lr: float | None  # None: nothing is trained


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a training: hits (M,) bool of the images that are held out."""

    trained: np.ndarray
    refitted: np.ndarray
    seconds: float  # of the CPU, to train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, help="a folder of class folders")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--res", type=int, help="px, of train and test")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--train", type=int, default=300, help="images to train on")
    parser.add_argument("--held-out", type=int, default=500, help="images to test on")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, nargs="+", default=[MIDDLE.lr], help="peaks")
    parser.add_argument("--only", nargs="+", choices=list(LINES), default=list(LINES))
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    lines = _lines(args.only, args.lr)
    with tempfile.TemporaryDirectory() as scratch:
        for pool in _pools(Path(scratch), args):
            found: dict[Line, list[Outcome]] = {line: [] for line in lines}
            for seed in range(args.seeds):
                folder = Path(scratch) / f"{pool.name} {seed}"
                _write(pool, folder / "images", seed, args.train, args.held_out)
                images = prepare(folder / "images", folder / "cache", ReadOptions())
                for line in lines:
                    one = _outcome(images, folder, pool.res, line, args.epochs, seed)
                    found[line].append(one)
                    shares = (f"{100 * hits.mean():.1f}" for hits in (one.trained, one.refitted))
                    print(pool.name, seed, *_named(line), *shares, sep="\t", flush=True)
                shutil.rmtree(folder)
            counts = f"{args.train} to train on, {args.held_out} held out, {args.seeds} seeds"
            print(f"\n{pool.name}, {pool.res} px, {args.epochs} epochs: {counts}\n")
            print("\n".join(_table(found)), flush=True)


def _lines(options: Sequence[str], rates: Sequence[float]) -> list[Line]:
    """List what is run: the default first, each at all learning rates, the untouched net once."""
    lines = []
    for name in dict.fromkeys([DEFAULT, *options]):
        lines += [Line(name, lr) for lr in (rates if _is_trained(name) else [None])]
    return lines


def _is_trained(options: str) -> bool:
    return LINES[options].get("epochs") != 0


def _pools(scratch: Path, args: argparse.Namespace) -> list[Pool]:
    """Make the sets that are asked for, and find the photographs."""
    pools = []
    if args.photographs is not None and "photographs" in args.sets:
        files = _by_class(args.photographs.glob("*/*"))
        pools.append(Pool(name=args.photographs.name, files=files, res=args.res or SMALL))
    if "scans" in args.sets:
        files = _by_class(_scans(scratch / "scans").glob("*/*"))
        pools.append(Pool(name="scans of digits", files=files, res=args.res or SMALL))
    if "digits" in args.sets:
        files = _by_class(builtin_digits.make(scratch / "digits").glob("*/*/*.jpg"))
        pools.append(Pool(name="digits on photographs", files=files, res=args.res or LARGER))
    return pools


def _scans(folder: Path) -> Path:
    """Write scikit-learn's scans into class folders."""
    from sklearn.datasets import load_digits

    scans = load_digits()
    for number, (scan, digit) in enumerate(zip(scans.images, scans.target, strict=True)):
        path = folder / str(digit) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray((scan * (255 / 16)).astype(np.uint8))
        grey.resize((SMALL, SMALL), Image.Resampling.BICUBIC).convert("RGB").save(path)
    return folder


def _by_class(paths: Any) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(paths):
        found.setdefault(path.parent.name, []).append(path)
    return found


def _write(pool: Pool, folder: Path, seed: int, train: int, held_out: int) -> None:
    """Copy images into splits: val is held out; test, which there has to be, is one a class."""
    fixed, drawn = np.random.default_rng(0), np.random.default_rng((seed, 1))
    of_val, of_train = (count // len(pool.files) for count in (held_out, train))
    for name, files in pool.files.items():
        order = fixed.permutation(len(files)).tolist()
        kept, others = order[:of_val], order[of_val:]
        chosen = drawn.permutation(others[1:])[:of_train].tolist()
        for split, numbers in (("val", kept), ("test", others[:1]), ("train", chosen)):
            (folder / split / name).mkdir(parents=True)
            for number in numbers:
                shutil.copyfile(files[number], folder / split / name / files[number].name)


def _outcome(
    images: ImageSet, folder: Path, res: int, line: Line, epochs: int, seed: int
) -> Outcome:
    store = Store(folder / "store")
    weights = with_fitting_classifier(find_weights(VARIANT, "auto", store), images.classes)
    options = {"epochs": epochs, "batch_size": BATCH, **LINES[line.options]}
    spec = TrunkSpec(
        variant=VARIANT.name,
        train_res=res,
        weights=weights,
        images=images.digest,
        recipe=Recipe(augmentation=Augmentation(hflip=0.0), **options),
        hyper=replace(MIDDLE, lr=line.lr or 0.0),
        seed=seed,
    )
    began = time.process_time()
    training = TrunkTraining(
        spec, images, store, cache=folder / "cache", threads=THREADS, val_transforms=(), rungs=()
    )
    while training.trained_epochs < options["epochs"]:
        training.epoch()
    seconds = time.process_time() - began
    if line.options == OWN_STATISTICS:
        _re_estimate(training, res)
    held_out = images.split("val")
    features, labels = {}, {}
    for split in ("train", "val"):
        view = training.views.view(split, _whole(res))
        features[split] = features_of(
            training.evaluated_model, view, training.preprocessing, batch_size=BATCH, device=CPU
        )
        labels[split] = torch.tensor(images.split(split).labels)
    classifiers = {
        "trained": Probe(*(p.detach() for p in training.evaluated_model.classifier.parameters())),
        "refitted": fit_probe(features["train"], labels["train"], len(images.classes)),
    }
    order = np.argsort(held_out.paths())
    hits = {}
    for what, (weight, bias) in classifiers.items():
        said = (features["val"] @ weight.T + bias).argmax(dim=1)
        hits[what] = (said == labels["val"]).numpy()[order]
    return Outcome(**hits, seconds=seconds)


def _re_estimate(training: TrunkTraining, res: int) -> None:
    """Give all batch norms the mean statistics of batches of whole train images."""
    net = training.evaluated_model.eval()
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches, each as much as any
        norm.train()
    view, forward = training.views.view("train", _whole(res)), partial(backbone.features, net)
    with torch.no_grad():
        outputs_of(forward, view, training.preprocessing, batch_size=BATCH, device=CPU)


def _whole(res: int) -> EvalTransform:
    interpolation = variants.preprocessing(VARIANT).interpolation
    return EvalTransform(test_res=res, crop_pct=TEST_CROP_PCT, interpolation=interpolation)


def _table(found: Mapping[Line, Sequence[Outcome]]) -> list[str]:
    """Lay out each line, and how far it is from the default's best."""
    names = ["options", "lr", "as trained, %", "difference"]
    names += ["classifier refitted, %", "difference", "CPU time"]
    lines = [f"| {' | '.join(names)} |", f"|---|{'---:|' * (len(names) - 1)}"]
    defaults = [line for line in found if line.options == DEFAULT]
    base = max(defaults, key=lambda line: _hits(found[line], "refitted").mean())
    base_seconds = sum(one.seconds for one in found[base])
    for line, outcomes in found.items():
        cells = list(_named(line))
        for what in ("trained", "refitted"):
            hits = _hits(outcomes, what)
            gain = "" if line == base else _in_words(hits - _hits(found[base], what))
            is_asked = _is_trained(line.options) or what == "refitted"
            cells += [f"{100 * hits.mean():.1f}", gain] if is_asked else ["", ""]
        seconds = sum(one.seconds for one in outcomes)
        cells.append(f"{seconds / base_seconds:.2f}" if _is_trained(line.options) else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _named(line: Line) -> tuple[str, str]:
    return line.options, "" if line.lr is None else f"{line.lr:g}"


def _hits(outcomes: Sequence[Outcome], what: str) -> np.ndarray:
    """Stack the hits of one line: (seeds, images) float."""
    return np.stack([getattr(one, what) for one in outcomes]).astype(float)


def _in_words(gains: np.ndarray) -> str:
    """Give the mean of (seeds, images) differences, and the middle 95 % of resampled means."""
    rng = np.random.default_rng(0)
    seeds, images = gains.shape
    means = [
        gains[rng.integers(0, seeds, seeds)].mean(axis=0)[rng.integers(0, images, images)].mean()
        for _ in range(RESAMPLINGS)
    ]
    low, high = (100 * end for end in np.quantile(means, (0.025, 0.975)))
    return f"{100 * gains.mean():+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    main()
