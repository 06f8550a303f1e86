"""A trunk: its spec, its epochs' reports, and the files that the store holds of it.

trunks/<key>/spec.json          the spec; written when its training begins
trunks/<key>/state.pt           its state in training: see :mod:`.trunk_checkpoint`
trunks/<key>/trunk.safetensors  the weights of a finished one, by timm's names
trunks/<key>/result.json        how it ended, and its reports; written last
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch

from trainables.evaluation.metrics import Score
from trainables.models.weights import Weights
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_json, read_state, read_tensors, write_json, write_tensors
from trainables.storage.hashing import content_hash
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
class TrunkSpec:
    """All that a trunk depends on."""

    variant: str
    train_res: int  # px
    weights: Weights
    images: str  # the image set's digest
    recipe: Recipe
    hyper: Hyper
    seed: int

    @property
    def key(self) -> str:
        """The name of the trunk in the store."""
        return content_hash(STAGE, self)


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What came of one epoch; epoch 0 is the scoring of a trunk that is not trained."""

    epoch: int
    loss: float | None  # mean over its images; None: not finite, or nothing was trained
    train_top1: float | None  # on the augmented images, before each step; None: nothing was trained
    images: int  # trained on
    lr: float  # at its last step
    seconds: float
    at: int  # Unix time, ms
    val: dict[int, Score] = field(default_factory=dict)  # by test resolution; at rungs only
    diverged: bool = False
    micro_batch: int | None = None  # images at once, as far as memory went; None: whole batches

    @property
    def best_val(self) -> Score | None:
        """The score with the most hits over the test resolutions; None: val was not scored."""
        return max(self.val.values(), key=lambda s: s.hits1) if self.val else None


def trunk_spec_from_json(value: Mapping[str, Any]) -> TrunkSpec:
    """Read a spec from its JSON."""
    recipe = dict(value["recipe"])
    augmentation = recipe["augmentation"]
    recipe["augmentation"] = Augmentation(
        crop_scale=tuple(augmentation["crop_scale"]),
        crop_ratio=tuple(augmentation["crop_ratio"]),
        hflip=augmentation["hflip"],
    )
    nested = {
        "weights": Weights(**value["weights"]),
        "recipe": Recipe(**recipe),
        "hyper": Hyper(**value["hyper"]),
    }
    return TrunkSpec(**{**value, **nested})


def epoch_report_from_json(value: Mapping[str, Any]) -> EpochReport:
    """Read a report from its JSON."""
    val = {int(res): Score(**s) for res, s in value["val"].items()}
    return EpochReport(**{**value, "val": val})


def recorded_reports(store: Store, key: str) -> list[EpochReport]:
    """Read the reports of all epochs of a trunk, finished or in training, that are in the store."""
    folder = store.trunk(key)
    record = read_json(folder / "result.json")
    if record is None:
        record = read_state(folder / "state.pt")
    if record is None:
        return []
    return [epoch_report_from_json(r) for r in record["reports"]]


def trained_epochs(reports: Sequence[EpochReport]) -> int:
    """Count the epochs that a trunk was trained for."""
    return max((r.epoch for r in reports), default=0)


def finalize_trunk(store: Store, key: str, status: TrunkStatus) -> None:
    """Turn a trunk's training state, where it stands, into the finished trunk.

    Its weights are the moving average's where there is one. Calling it again changes nothing;
    after a call that was cut short it does the rest.

    Args:
        status: how the training ended.
    """
    folder = store.trunk(key)
    if (folder / "result.json").exists():
        (folder / "state.pt").unlink(missing_ok=True)
        return
    state = read_state(folder / "state.pt")
    assert state is not None, f"no trunk {key} in training"
    assert state.get("progress") is None, f"trunk {key} is within an epoch"
    write_tensors(folder / "trunk.safetensors", state.get("ema", state["model"]))
    write_json(folder / "result.json", {"why": status, "reports": state["reports"]})
    (folder / "state.pt").unlink()


def read_trunk_spec(store: Store, key: str) -> TrunkSpec:
    """Read the spec of a trunk that has been begun."""
    spec = read_json(store.trunk(key) / "spec.json")
    assert spec is not None, f"no trunk {key}"
    return trunk_spec_from_json(spec)


def read_trunk_weights(store: Store, key: str) -> dict[str, torch.Tensor]:
    """Read the weights of a finished trunk, on the CPU, by the names of timm's state dict."""
    return read_tensors(store.trunk(key) / "trunk.safetensors")
