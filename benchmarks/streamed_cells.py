"""Compare cells that stream train with one that keeps all maps; or run a large one under a quota.

    python benchmarks/streamed_cells.py [IMAGES] [--test-res 96] [--prefixes 1000 300 100]
    python benchmarks/streamed_cells.py --made 200000 --prefix-mb 50 [--folder DIR]

IMAGES is a folder of class folders; left out: the built-in digits. Its untouched Lite0, with
ImageNet's weights, is fixed (arms bn and fix) once with all of train's maps kept, and then with the
maps of the first images alone, the rest streamed (docs/arms.md), however few they are. All in one
process, one after the other, after a first run that warms up. A line has the seconds, the bytes on
the disk at their peak (the cell's folder, views and maps; looked up every 50 ms), how far features
and logits of val are off those of kept maps, as a share of their norm, and one logit at most, top-1
on val, and the classifier's setting that val picked: where it picks another one, logits are those
of another classifier, whatever the features.

With --made, small pictures of ten colours under noise are made, written as decoded images are, and
one cell is streamed over them. It says how many bytes its features, in half precision, and its
prefix take, and the most that it took of the disk and of memory; the memory at each tenth of the
pass shows whether it grows. Under a quota, here of three times the features and the prefix:

    unshare -rm sh -c "mount -t tmpfs -o size=$BYTES none DIR && python benchmarks/... --folder DIR"
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISREG

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainables.data import builtin_digits
from trainables.data.decode import prepare
from trainables.data.image_set import ImageSet
from trainables.data.options import ReadOptions
from trainables.data.view_cache import ViewCache
from trainables.evaluation.confidence import standard_error
from trainables.fixres.adapt import adapt_cell
from trainables.fixres.cell import CellSpec
from trainables.fixres.features import read_features
from trainables.fixres.head_settings import HeadGrid
from trainables.fixres.predictions import recorded_predictions
from trainables.fixres.streaming.feature_shards import FeatureShards
from trainables.models import variants
from trainables.models.imagenet import with_fitting_classifier
from trainables.models.weights import find_weights
from trainables.profiling.disk_use import HALF_BYTES, feature_bytes, map_bytes
from trainables.storage.artifact_store import Store
from trainables.storage.files import files_size
from trainables.training.recipe import Hyper, Recipe
from trainables.training.trunk import TrunkSpec
from trainables.training.untouched import write_untouched
from trainables.transforms.eval_transform import EvalTransform

VARIANT, BATCH, THREADS, CLASSES, SIDE = "lite0", 64, 2, 10, 32
HEADS = HeadGrid(lr=(0.01, 0.1), label_smoothing=(0.0,), epochs=5, patience=5, batch_size=64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, nargs="?", help="left out: the built-in digits")
    parser.add_argument("--test-res", type=int, help="px: 96, of made pictures 32")
    parser.add_argument("--prefixes", type=int, nargs="+", default=(1000, 300, 100))
    parser.add_argument("--made", type=int, help="make so many pictures, and stream over them")
    parser.add_argument("--prefix-mb", type=float, default=50)
    parser.add_argument("--folder", type=Path, help="where the cell of made pictures writes")
    args = parser.parse_args()
    if args.images is not None and args.made is not None:
        parser.error("give a folder of images, or --made")
    with tempfile.TemporaryDirectory() as name:
        if args.made is None:
            images = args.images or builtin_digits.make(Path(name) / "digits")
            compare(Path(name), images, args.test_res or 96, args.prefixes)
        else:
            written = args.folder or Path(name) / "cell"
            stream_made(Path(name), written, args.made, args.test_res or SIDE, args.prefix_mb)


def compare(folder: Path, images: Path, res: int, prefixes: list[int]) -> None:
    """Print a line for the cell of kept maps, and one for each prefix."""
    found = prepare(images, folder / "decoded", ReadOptions())
    train, val = (len(found.split(split)) for split in ("train", "val"))
    print(f"{train} train and {val} val images, {VARIANT} at {res} px")
    prefixes = [prefix for prefix in prefixes if prefix < train]  # of others all maps are kept
    print("prefix      s    peak MB   features off %   logits off %   at most   top-1 on val %")
    exact: Outcome | None = None
    for number, prefix in enumerate((None, None, *prefixes)):
        outcome = adapted(folder / f"run-{number}", found, res, prefix)
        if number == 0:  # warms up: kernels are chosen, and files are in the page cache
            continue
        exact = exact or outcome
        error = standard_error(int((outcome.predicted == outcome.labels).sum()), val)
        print(
            f"{'all' if prefix is None else prefix:>6}"
            f"{outcome.seconds:7.1f}{outcome.peak / 1e6:11.1f}"
            f"{100 * off(outcome.features, exact.features):17.2f}"
            f"{100 * off(outcome.logits, exact.logits):15.2f}"
            f"{np.abs(outcome.logits - exact.logits).max():10.3f}"
            f"{100 * (outcome.predicted == outcome.labels).mean():11.1f} +- {100 * error:.1f}"
            f", {(outcome.predicted != exact.predicted).sum()} labels differ; {outcome.setting}"
        )


def off(found: np.ndarray, wanted: np.ndarray) -> float:
    """Give the distance of two arrays, as a share of the norm of the second."""
    found, wanted = found.astype(np.float64), wanted.astype(np.float64)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a cell, and what it took."""

    seconds: float
    peak: int  # bytes on the disk
    features: np.ndarray  # of train
    logits: np.ndarray  # of val, by the arm fix
    setting: str  # of its classifier
    labels: np.ndarray
    predicted: np.ndarray


def adapted(folder: Path, images: ImageSet, res: int, prefix: int | None) -> Outcome:
    """Work out a cell in a folder that is not there yet."""
    store = Store(folder / "store")
    cell = cell_of(store, images, res, prefix)
    views = ViewCache(images=images, cache=folder / "cache", threads=THREADS)
    began = time.perf_counter()
    with watched(store.cell(cell.key), views.cache) as watch:
        fix = adapt_cell(cell, store, views)[-1]
    assert fix.head is not None
    seconds, found = time.perf_counter() - began, recorded_predictions(store, cell.key, "fix")
    assert found.logits is not None
    train = images.split("train").labels
    if prefix is None:
        features = np.array(read_features(store.cell(cell.key) / "train.arrow")[0])
    else:
        shards = FeatureShards(
            folder=store.cell(cell.key), name="train", labels=train, prefix=prefix
        )
        parts = shards.read()
        assert parts is not None
        features = np.concatenate(parts.parts)
    return Outcome(
        seconds=seconds,
        peak=watch.disk,
        features=features,
        logits=found.logits,
        setting=f"lr {fix.head.lr:g}, {fix.head.epochs} epochs",
        labels=found.labels,
        predicted=found.predicted,
    )


def cell_of(store: Store[Path], images: ImageSet, res: int, prefix: int | None) -> CellSpec:
    """Put the untouched net into the store, and give the cell that fixes it."""
    variant = variants.get(VARIANT)
    weights = with_fitting_classifier(find_weights(variant, "auto", store), images.classes)
    trunk = TrunkSpec(
        variant=VARIANT,
        train_res=variant.native_res,
        weights=weights,
        images=images.digest,
        recipe=Recipe(epochs=0, batch_size=1),
        hyper=Hyper(lr=0.0, weight_decay=0.0, label_smoothing=0.0),
        seed=0,
    )
    write_untouched(trunk, len(images.classes), store)
    return CellSpec(
        trunk=trunk.key,
        transform=EvalTransform(test_res=res, crop_pct=1.0, interpolation="bicubic"),
        arms=("bn", "fix"),
        heads=HEADS,
        views=1,
        batch_size=BATCH,
        seed=0,
        prefix=prefix,
    )


class Watch:
    """The most that was taken so far."""

    disk = 0  # bytes
    memory: list[tuple[float, int]]  # seconds since the beginning, and bytes that are no file's

    def __init__(self) -> None:
        self.memory = []


@contextmanager
def watched(*folders: Path) -> Iterator[Watch]:
    """Look up what folders and this process take, every 50 ms until the block ends."""
    watch, over, began = Watch(), threading.Event(), time.perf_counter()

    def look() -> None:
        while not over.wait(0.05):
            try:
                named = sum(map(files_size, folders))
                watch.disk = max(watch.disk, named + nameless_bytes())
            except FileNotFoundError:  # replaced while it was looked up
                continue
            watch.memory.append((time.perf_counter() - began, anonymous_bytes()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()


def nameless_bytes() -> int:
    """Look up what open files take that have no name, as those of maps."""
    size = 0
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed meanwhile, as is that of the list
            file = os.fstat(int(number))
            size += file.st_size * (S_ISREG(file.st_mode) and not file.st_nlink)
    return size


def anonymous_bytes() -> int:
    """Look up the memory of this process that is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def stream_made(folder: Path, written: Path, count: int, res: int, prefix_mb: float) -> None:
    """Stream a cell over made pictures, and print what it took."""
    images = made(folder / "decoded", count)
    prefix = int(prefix_mb * 1e6 / map_bytes(VARIANT, res, 4))
    store = Store(written / "store")
    cell = replace(cell_of(store, images, res, prefix), heads=replace(HEADS, epochs=1))
    views = ViewCache(images=images, cache=written / "cache", threads=THREADS)
    features, kept = count * feature_bytes(VARIANT, HALF_BYTES), prefix * map_bytes(VARIANT, res, 4)
    print(f"{count} train images, {VARIANT} at {res} px, maps kept of {prefix}")
    print(f"features {features / 1e6:.0f} MB, prefix {kept / 1e6:.0f} MB: three times the one and ")
    print(f"the other {(3 * features + kept) / 1e6:.0f} MB", flush=True)
    before, began = anonymous_bytes(), time.perf_counter()
    with watched(store.cell(cell.key), views.cache) as watch:
        adapt_cell(cell, store, views)
    seconds = time.perf_counter() - began
    predictions = recorded_predictions(store, cell.key, "fix")
    top1 = (predictions.predicted == predictions.labels).mean()
    print(f"{seconds:.0f} s; at most {watch.disk / 1e6:.0f} MB of disk")
    samples = np.array([taken for _, taken in watch.memory])
    by_tenth = [part.max() / 1e6 for part in np.array_split(samples, 10)]
    print(f"memory before {before / 1e6:.0f} MB; at most, in each tenth of the time:")
    print("  " + "  ".join(f"{taken:.0f}" for taken in by_tenth))
    print(f"val top-1 of fix {100 * top1:.1f} % (n={len(predictions.labels)})")


def made(cache: Path, count: int) -> ImageSet:
    """Write pictures of ten colours under noise as decoded images are, and a hundredth for val."""
    rng, root = np.random.default_rng(0), cache / ("0" * 64)
    root.mkdir(parents=True)
    val = max(CLASSES, count // 100)
    labels = rng.integers(0, CLASSES, count + val)
    tints, size = rng.integers(64, 192, (CLASSES, 3)), SIDE * SIDE * 3
    with (root / "pixels.bin").open("wb") as file:
        for part in np.array_split(labels, max(1, len(labels) // 4096)):
            noise = rng.normal(0, 60, (len(part), SIDE, SIDE, 3))
            pixels = (tints[part][:, None, None] + noise).clip(0, 255)
            file.write(pixels.astype(np.uint8).tobytes())
    columns = {
        "path": pa.array([str(i) for i in range(len(labels))]),
        "label": pa.array(labels),
        "split": pa.array(["train"] * count + ["val"] * val),
        "sha256": pa.array([i.to_bytes(32) for i in range(len(labels))], pa.binary(32)),
        "offset": pa.array(np.arange(len(labels)) * size),
        "height": pa.array(np.full(len(labels), SIDE, np.int32)),
        "width": pa.array(np.full(len(labels), SIDE, np.int32)),
    }
    table = pa.table(columns)
    with (
        pa.OSFile(str(root / "index.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    (root / "images.json").write_text(json.dumps({"digest": root.name}))
    return ImageSet(
        root=root,
        digest=root.name,
        classes=tuple(f"colour {i}" for i in range(CLASSES)),
        rejected=(),
        notes=(),
    )


if __name__ == "__main__":
    main()
