"""Images a core brings to the net in a second, against torchvision's way, timm's and DALI's.

    python benchmarks/input.py [--images 300] [--size 500 375] [--folder PHOTOGRAPHS]

Without ``--folder`` the images are JPEGs cut from the two photographs of the built-in set, as large
as ImageNet's (500 x 375 px, about 60 kB). First come the files, decoded and no more. All other
paths end with the same: a batch of float32 pixels that are cropped at random, mirrored and
normalised; they take turns in one process, on one core, and are timed by the CPU's clock, so that
other programs count by the caches they share alone. The first column of the output is images a
second, the second the ratio to torchvision's default, which decodes each file, resizes with Pillow
and makes tensors one by one.

- torchvision: ``ImageFolder``, RandomResizedCrop, RandomHorizontalFlip, ToTensor, Normalize.
- timm: ``create_dataset``, ``create_transform`` and ``create_loader`` without augmentation beyond
  the crop and the flip; its loader normalises whole batches.
- DALI, where ``nvidia-dali-cuda130`` is installed: its pipeline on the CPU, which decodes of a file
  what is cropped.
- ours: from the cache of decoded pixels, by each kernel; with the short side kept at 256 px; and
  from the files, which the cache keeps where it has no room for pixels.

Below, the same crops distorted, by torchvision's or timm's way of it and by ours; every image is
erased in part. Then test views: resize the short side, crop the centre; ours by Pillow, as timm's.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.dali_input import dali_batches
from trainables.data import builtin_digits
from trainables.data.decode import prepare
from trainables.data.image_set import ImageSet
from trainables.data.loader import UNDISTORTED, normalize_on_device, train_batches
from trainables.data.options import ReadOptions
from trainables.data.pixels import to_rgb
from trainables.models import variants
from trainables.models.variants import Preprocessing
from trainables.transforms.augmentation import Augmentation, Distortions
from trainables.transforms.eval_transform import EvalTransform
from trainables.transforms.fast_resize import Kernel

CLASSES, BATCH, CROP_PCT = 4, 32, 0.875
PASSES = 5  # over the images: in the first two of a path, much of their time goes to new memory
CPU = torch.device("cpu")
Make = Callable[[], Iterator[torch.Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375), help="width, height, px")
    parser.add_argument("--folder", type=Path, help="class folders of photographs")
    parser.add_argument("--train-res", type=int, nargs="+", default=(128, 224), help="px")
    parser.add_argument("--test-res", type=int, nargs="+", default=(224, 320), help="px")
    parser.add_argument("--variant", default="b0")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        folder = args.folder or write_photographs(root / "photos", args.images, tuple(args.size))
        bench = Bench(folder, root, variants.preprocessing(variants.get(args.variant)))
        print(f"read, decode, hash and store: {bench.decoded_a_second:,.0f} images/s")
        show("files decoded", bench.decoding())
        for res in args.train_res:
            show(f"crops to train on at {res} px", bench.crops(res))
            show(f"distorted crops at {res} px", bench.distorted(res))
        for res in args.test_res:
            show(f"test views at {res} px", bench.views(res))


def write_photographs(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Cut JPEGs from photographs, in folders of classes, their fine grain as a camera leaves it."""
    rng = np.random.default_rng(0)
    photos = builtin_digits._material().photos
    for i in range(count):
        photo = photos[i % len(photos)]
        share = rng.uniform(0.6, 1.0)
        width = int(share * photo.width)
        height = min(photo.height, width * size[1] // size[0])
        left = int(rng.integers(0, photo.width - width + 1))
        top = int(rng.integers(0, photo.height - height + 1))
        piece = photo.crop((left, top, left + width, top + height)).resize(size)
        path = folder / f"class{i % CLASSES}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        piece.save(path, quality=92)
    return folder


class Bench:
    """The same photographs, by every path."""

    def __init__(self, folder: Path, scratch: Path, preprocessing: Preprocessing):
        self.folder, self.preprocessing = folder, preprocessing
        began = time.process_time()
        self.native = self._prepared(scratch / "native", 4096)
        self.decoded_a_second = len(self.native) / (time.process_time() - began)
        self.short = self._prepared(scratch / "short", 256)
        size = sum(path.stat().st_size for path in self.folder.rglob("*.*"))
        self.files = self._prepared(scratch / "files", 4096, 1.1 * size / 1e9)

    def _prepared(self, cache: Path, side: int, cache_gb: float | None = None) -> Any:
        """Nearly all images, in one split, stored with this short side at most."""
        options = ReadOptions(cache_side=side, cache_gb=cache_gb, val_share=0.02, test_share=0.02)
        images: ImageSet = prepare(self.folder, cache, options)
        return images.split("train")

    # --- files --------------------------------------------------------------------------------

    def decoding(self) -> dict[str, Make]:
        """Name the ways from a file to its pixels."""
        return {
            "torchvision's default": self._torchvision_decoded,
            **self._by_dali(None, train=False),
            "ours, as the cache is filled and where it keeps files": self._own_decoded,
        }

    def _torchvision_decoded(self) -> Iterator[torch.Tensor]:
        from torchvision.datasets.folder import default_loader

        for path in self.folder.rglob("*.*"):
            yield torch.from_numpy(np.asarray(default_loader(str(path)))[None])

    def _own_decoded(self) -> Iterator[torch.Tensor]:
        for path in self.folder.rglob("*.*"):
            yield torch.from_numpy(to_rgb(path.read_bytes(), 4096)[None])

    # --- crops to train on --------------------------------------------------------------------

    def crops(self, res: int) -> dict[str, Make]:
        """Name the paths that make crops at ``res`` px."""
        paths: dict[str, Make] = {
            "torchvision's default": lambda: self._torchvision(res, train=True),
            "timm's loader": lambda: self._timm(res, train=True),
            **self._by_dali(res, train=True),
        }
        return paths | {
            "ours, Pillow": lambda: self._ours(self.native, res, "pillow"),
            "ours": lambda: self._ours(self.native, res, "torch"),
            "ours, short side 256 px": lambda: self._ours(self.short, res, "torch"),
            "ours, decoded at each use": lambda: self._ours(self.files, res, "torch"),
        }

    def distorted(self, res: int) -> dict[str, Make]:
        """Name the paths that make distorted crops at ``res`` px; the first distorts nothing."""
        ours = {
            "RandAugment": Distortions(auto_augment="rand"),
            "TrivialAugment": Distortions(auto_augment="trivial"),
            "random erasing": Distortions(random_erasing=1.0),
            "mixup": Distortions(mixup=0.8),
            "CutMix": Distortions(cutmix=1.0),
        }
        paths: dict[str, Make] = {"ours": lambda: self._ours(self.native, res, "torch")}
        for name, distortions in ours.items():
            whose = "torchvision" if name == "TrivialAugment" else "timm"
            paths[f"{whose}, {name}"] = partial(self._theirs, res, name)
            paths[f"ours, {name}"] = partial(self._ours, self.native, res, "torch", distortions)
        return paths

    def _theirs(self, res: int, name: str) -> Iterator[torch.Tensor]:
        """Distort by torchvision's TrivialAugment on Pillow's images, by timm all else."""
        from timm.data import FastCollateMixup
        from torchvision.transforms import TrivialAugmentWide

        if name == "TrivialAugment":
            return self._torchvision(res, train=True, more=[TrivialAugmentWide()])
        alphas = {"mixup": (0.8, 0.0), "CutMix": (0.0, 1.0)}
        more: dict[str, Any] = {
            "auto_augment": "rand-m9-n2" if name == "RandAugment" else None,
            "re_prob": float(name == "random erasing"),
            "re_mode": "pixel",
        }
        if name in alphas:
            mixup, cutmix = alphas[name]
            more["collate_fn"] = FastCollateMixup(mixup, cutmix, num_classes=CLASSES)
        return self._timm(res, train=True, **more)

    def _ours(
        self, images: Any, res: int, kernel: Kernel, distortions: Distortions = UNDISTORTED
    ) -> Iterator[torch.Tensor]:
        batches = train_batches(
            images,
            res,
            batch_size=BATCH,
            augmentation=Augmentation(crop_scale=(0.08, 1.0)),
            distortions=distortions,
            preprocessing=self.preprocessing,
            seed=(0,),
            threads=1,
            kernel=kernel,
        )
        for batch in batches:
            yield normalize_on_device(batch.pixels, self.preprocessing, CPU)

    def _torchvision(
        self, res: int, *, train: bool, more: Sequence[Any] = ()
    ) -> Iterator[torch.Tensor]:
        from torchvision import transforms as T
        from torchvision.datasets import ImageFolder

        mode = T.InterpolationMode(self.preprocessing.interpolation)
        sized: list[Any] = [
            T.Resize(int(res / CROP_PCT), interpolation=mode),
            T.CenterCrop(res),
        ]
        if train:
            sized = [T.RandomResizedCrop(res, interpolation=mode), T.RandomHorizontalFlip()]
        mean, std = self.preprocessing.mean, self.preprocessing.std
        chain = T.Compose([*sized, *more, T.ToTensor(), T.Normalize(mean, std)])
        data = ImageFolder(str(self.folder), chain)
        loader = torch.utils.data.DataLoader(data, BATCH, shuffle=train, drop_last=train)
        for x, _ in loader:
            yield x

    def _timm(self, res: int, *, train: bool, **more: Any) -> Iterator[torch.Tensor]:
        from timm.data import create_dataset, create_loader

        data = create_dataset("", str(self.folder))
        loader = create_loader(
            data,
            (3, res, res),
            BATCH,
            is_training=train,
            no_aug=False,
            color_jitter=0.0,
            **{"auto_augment": None, "re_prob": 0.0, **more},
            interpolation=self.preprocessing.interpolation,
            mean=self.preprocessing.mean,
            std=self.preprocessing.std,
            crop_pct=CROP_PCT,
            num_workers=0,
            use_prefetcher=True,
            device=CPU,
            persistent_workers=False,
        )
        for x, _ in loader:
            yield x

    def _by_dali(self, res: int | None, *, train: bool) -> dict[str, Make]:
        if not (find_spec("nvidia") and find_spec("nvidia.dali")):
            return {}
        make = partial(
            dali_batches,
            self.folder,
            res,
            train=train,
            batch_size=BATCH,
            crop_pct=CROP_PCT,
            preprocessing=self.preprocessing,
        )
        return {"DALI on the CPU": make}

    # --- test views ---------------------------------------------------------------------------

    def views(self, res: int) -> dict[str, Make]:
        """Name the paths that make test views at ``res`` px."""
        return {
            "torchvision's default": lambda: self._torchvision(res, train=False),
            "timm's loader": lambda: self._timm(res, train=False),
            **self._by_dali(res, train=False),
            "ours": lambda: self._own_views(res),
        }

    def _own_views(self, res: int) -> Iterator[torch.Tensor]:
        interpolation = self.preprocessing.interpolation
        transform = EvalTransform(test_res=res, crop_pct=CROP_PCT, interpolation=interpolation)
        for start in range(0, len(self.native), BATCH):
            numbers = range(start, min(start + BATCH, len(self.native)))
            pixels = np.stack([transform(self.native[i]) for i in numbers])
            yield normalize_on_device(torch.from_numpy(pixels), self.preprocessing, CPU)


def show(what: str, paths: dict[str, Make]) -> None:
    """Time the paths in turns, and print the fastest pass of each as a table."""
    rates = dict.fromkeys(paths, 0.0)
    for _ in range(PASSES):
        for name, make in paths.items():
            began = time.process_time()
            count = sum(len(batch) for batch in make())
            rates[name] = max(rates[name], count / (time.process_time() - began))
    print(f"\n| {what} | images/s | ratio |\n|---|---:|---:|")
    base = next(iter(rates.values()))
    for name, rate in rates.items():
        print(f"| {name} | {rate:,.0f} | {rate / base:.1f} |")


if __name__ == "__main__":
    main()
