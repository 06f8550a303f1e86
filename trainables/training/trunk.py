"""A trunk: its spec, its epochs' reports, and the files that the store holds of it.

trunks/<key>/spec.json          the spec; written when its training begins
trunks/<key>/state.pt           its state in training: see :mod:`.trunk_checkpoint`
trunks/<key>/trunk.safetensors  the weights of a finished one, by timm's names
trunks/<key>/rung-<n>.arrow     which images of val it had right after epoch n: see
                                :mod:`.rung_hits`
trunks/<key>/result.json        how it ended, and its reports; written last
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

import torch

from trainables.evaluation.class_metrics import Metric
from trainables.evaluation.metrics import Score
from trainables.models.backbone import State
from trainables.models.weights import Weights, stored_state
from trainables.storage.artifact_store import Store
from trainables.storage.damage import DamagedFileError, damage_told, unless_damaged
from trainables.storage.files import (
    read_record,
    read_state,
    read_tensors,
    write_json,
    write_tensors,
)
from trainables.storage.hashing import added_later, content_hash
from trainables.storage.state_values import read_values
from trainables.storage.typed import checked
from trainables.training.recipe import Hyper, Recipe
from trainables.transforms.augmentation import Augmentation

STAGE = "trunk 1"  # raise it when the same spec would give other weights


class TrunkStatus(StrEnum):
    """How the training of a trunk ended; its value is what the store and the journal hold."""

    FINISHED = "finished"  # all epochs of its recipe
    CUT = "cut"  # by the scheduler, at a rung
    DIVERGED = "diverged"  # loss or weights are not finite
    FAILED = "failed"  # its trial, at every try; such a trunk has no result and no weights


@dataclass(frozen=True, kw_only=True)
class Parent:
    """A finished trunk that another starts from: of its variant, at a smaller train resolution."""

    trunk: str  # key in the store
    train_res: int  # px


@dataclass(frozen=True, kw_only=True)
class TrunkSpec:
    """All that a trunk depends on."""

    variant: str
    train_res: int  # px
    weights: Weights
    images: str  # the image set's digest
    recipe: Recipe
    hyper: Hyper
    seed: int
    repeat: int = added_later(0)  # the same configuration again, by another start, from 1
    parent: Parent | None = added_later(None)  # None: it starts from the weights as they come

    @property
    def is_untouched(self) -> bool:
        """Whether it is the net as its weights come, not trained here."""
        return self.recipe.epochs == 0

    @property
    def is_probed(self) -> bool:
        """Whether its classifier starts from a linear probe; a child has its parent's."""
        return self.recipe.start == "probe" and self.parent is None

    @property
    def head_only_epochs(self) -> int:
        """The first epochs, in which the classifier trains alone; a child's comes trained."""
        return self.recipe.head_only_epochs if self.parent is None else 0

    @cached_property  # It takes half a millisecond, and is asked for many times an epoch.
    def key(self) -> str:
        """The name of the trunk in the store."""
        return content_hash(STAGE, self)

    @cached_property
    def configuration(self) -> str:
        """The key of the trunk that this one repeats: of all repeats the same; else its own."""
        return replace(self, repeat=0).key if self.repeat else self.key

    @property
    def training_seed(self) -> int:
        """The seed of a random start, the order of the images and their augmentation."""
        if not self.repeat:
            return self.seed
        return int(content_hash("repeat", self.seed, self.repeat)[:8], 16) % 2**31


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What came of one epoch; epoch 0 is the scoring of a trunk that is not trained."""

    epoch: int
    loss: float | None  # mean over its images; None: not finite, or nothing was trained
    train_top1: float | None  # on the augmented images, before each step; None: nothing was trained
    images: int  # trained on
    lr: float  # at its last step
    seconds: float  # of training and scoring
    at: int  # Unix time, ms
    val: dict[int, Score] = field(default_factory=dict)  # by test resolution; at rungs only
    diverged: bool = False
    micro_batch: int | None = None  # images at once, as far as memory went; None: whole batches
    device: str = ""  # that it was trained on; empty: an earlier version did not say
    frozen_norms: bool = False  # batch norms stood still in some steps: memory held too few images
    probe_s: float = 0.0  # of fitting, before the epoch, the probe that the trunk starts from
    probe_wait_s: float = 0.0  # of waiting, before the epoch, while others fitted that probe
    speed_ups: str = ""  # of its steps, or why not, as TrainStep.speed_ups; empty: none was asked
    resize: str = ""  # what resized its images, as fast_resize.Kernel; empty: Pillow, or nothing

    @property
    def took_s(self) -> float:
        """Seconds of the epoch, and of what was fitted or waited for before it."""
        return self.seconds + self.probe_s + self.probe_wait_s

    @property
    def best_val(self) -> Score | None:
        """The score with the most hits over the test resolutions; None: val was not scored."""
        return self.best_by("top1")

    def best_by(self, metric: Metric) -> Score | None:
        """The best score by a metric over the test resolutions; None: val was not scored."""
        return max(self.val.values(), key=lambda s: s.value(metric)) if self.val else None


def trunk_spec_from_json(value: Mapping[str, Any]) -> TrunkSpec:
    """Read a spec from its JSON; raises anything for what is no spec."""
    recipe = dict(value["recipe"])
    augmentation = recipe["augmentation"]
    recipe["augmentation"] = Augmentation(
        crop_scale=tuple(augmentation["crop_scale"]),
        crop_ratio=tuple(augmentation["crop_ratio"]),
        hflip=augmentation["hflip"],
    )
    parent = value.get("parent")
    nested = {
        "weights": checked(Weights(**value["weights"])),
        "recipe": checked(Recipe(**recipe)),
        "hyper": hyper_from_json(value["hyper"]),
        "parent": None if parent is None else checked(Parent(**parent)),
    }
    return checked(TrunkSpec(**{**value, **nested}))


def hyper_from_json(value: Mapping[str, Any]) -> Hyper:
    """Read hyperparameters from their JSON; raises anything for what is none."""
    return checked(Hyper(**value))


def epoch_report_from_json(value: Mapping[str, Any]) -> EpochReport:
    """Read a report from its JSON; raises anything for what is no report."""
    val = {int(res): checked(Score(**s)) for res, s in value["val"].items()}
    return checked(EpochReport(**{**value, "val": val}))


def recorded_reports(store: Store, key: str) -> list[EpochReport]:
    """Read the reports of all epochs of a trunk, finished or in training, that are in the store.

    Weights and moments, gigabytes for the largest nets, are not read. A state that is cut short
    counts as none: the training begins anew.

    Raises:
        DamagedFileError: the result of a finished trunk is damaged.
    """
    folder = store.trunk(key)
    reports = read_record(folder / "result.json", _reports_of)
    if reports is not None:
        return reports
    path = folder / "state.pt"
    state = unless_damaged(lambda: read_values(path))
    if state is None:
        return []
    with damage_told(path):
        return _reports_of(state)


def _reports_of(record: Mapping[str, Any]) -> list[EpochReport]:
    return [epoch_report_from_json(r) for r in record["reports"]]


def recorded_status(store: Store, key: str) -> TrunkStatus | None:
    """Read how the training of a trunk ended; None: it has not, or its result is damaged."""
    path = store.trunk(key) / "result.json"
    return unless_damaged(lambda: read_record(path, lambda value: TrunkStatus(value["why"])))


def recorded_end(store: Store, key: str) -> tuple[TrunkStatus, tuple[EpochReport, ...]] | None:
    """Read how the training of a trunk ended, and its reports; None as :func:`recorded_status`."""

    def end_from_json(value: Mapping[str, Any]) -> tuple[TrunkStatus, tuple[EpochReport, ...]]:
        return TrunkStatus(value["why"]), tuple(_reports_of(value))

    path = store.trunk(key) / "result.json"
    return unless_damaged(lambda: read_record(path, end_from_json))


def trained_epochs(reports: Sequence[EpochReport]) -> int:
    """Count the epochs that a trunk was trained for."""
    return max((r.epoch for r in reports), default=0)


def finalize_trunk(store: Store, key: str, status: TrunkStatus) -> None:
    """Turn a trunk's training state, where it stands, into the finished trunk.

    Its weights are the moving average's where there is one. Calling it again changes nothing;
    after a call that was cut short it does the rest.

    Args:
        status: how the training ended.

    Raises:
        DamagedFileError: the state is damaged, missing or within an epoch.
    """
    folder = store.trunk(key)
    if (folder / "result.json").exists():
        (folder / "state.pt").unlink(missing_ok=True)
        return
    state = read_state(folder / "state.pt")
    if state is None:
        raise DamagedFileError(folder / "state.pt", "it is missing")
    if state.get("progress") is not None:
        raise DamagedFileError(folder / "state.pt", "it is within an epoch of an ended trunk")
    write_tensors(folder / "trunk.safetensors", state.get("ema", state["model"]))
    write_json(folder / "result.json", {"why": status, "reports": state["reports"]})
    (folder / "state.pt").unlink()


def read_trunk_spec(store: Store, key: str) -> TrunkSpec:
    """Read the spec of a trunk that has been begun.

    Raises:
        DamagedFileError: it is missing, or is not that of this key.
    """
    path = store.trunk(key) / "spec.json"
    spec = read_record(path, trunk_spec_from_json)
    if spec is None:
        raise DamagedFileError(path, "it is missing")
    if spec.key != key:
        raise DamagedFileError(path, f"it is the spec of trunk {spec.key}")
    return spec


def start_of(spec: TrunkSpec, store: Store) -> State | None:
    """Read what a trunk starts from: its parent's weights, classifier and all, or the variant's.

    Returns:
        None for a random start.

    Raises:
        DamagedFileError: they are damaged or missing.
    """
    if spec.parent is not None:
        return read_trunk_weights(store, spec.parent.trunk)
    return stored_state(spec.weights, store)


def read_trunk_weights(store: Store, key: str) -> dict[str, torch.Tensor]:
    """Read the weights of a finished trunk, on the CPU, by the names of timm's state dict.

    Raises:
        DamagedFileError: they are damaged or missing.
    """
    path = store.trunk(key) / "trunk.safetensors"
    try:
        return read_tensors(path)
    except FileNotFoundError:
        raise DamagedFileError(path, "it is missing") from None
