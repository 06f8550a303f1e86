"""What a trunk is: its spec, its epochs' reports, and what the store holds of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
        return content_hash(STAGE, self)


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """One epoch, or what is known of it from the store."""

    epoch: int
    loss: float | None  # None: not finite, or nothing was trained
    train_top1: float | None  # over the augmented images as they were seen; None: none was
    images: int
    lr: float
    seconds: float
    at: int  # Unix time, ms
    val: dict[int, Score] = field(default_factory=dict)  # by test resolution; at rungs only
    diverged: bool = False
    micro_batch: int | None = None  # images at once, as far as memory went; None: whole batches

    @property
    def best_val(self) -> Score | None:
        return max(self.val.values(), key=lambda s: s.hits1) if self.val else None


def trunk_spec_from_json(value: Mapping[str, Any]) -> TrunkSpec:
    """A spec from its JSON."""
    recipe = dict(value["recipe"])
    drawn = recipe["augmentation"]
    recipe["augmentation"] = Augmentation(
        crop_scale=tuple(drawn["crop_scale"]),
        crop_ratio=tuple(drawn["crop_ratio"]),
        hflip=drawn["hflip"],
    )
    nested = {
        "weights": Weights(**value["weights"]),
        "recipe": Recipe(**recipe),
        "hyper": Hyper(**value["hyper"]),
    }
    return TrunkSpec(**{**value, **nested})


def epoch_report_from_json(value: Mapping[str, Any]) -> EpochReport:
    """A report from its JSON."""
    val = {int(res): Score(**s) for res, s in value["val"].items()}
    return EpochReport(**{**value, "val": val})


def recorded_reports(store: Store, key: str) -> list[EpochReport]:
    """The reports of all epochs of a trunk that the store can vouch for."""
    folder = store.trunk(key)
    done = read_json(folder / "result.json")
    if done is None:
        done = read_state(folder / "state.pt")
    if done is None:
        return []
    return [epoch_report_from_json(r) for r in done["reports"]]


def trained_epochs(reports: Sequence[EpochReport]) -> int:
    """How many epochs lie behind a trunk."""
    return max((r.epoch for r in reports), default=0)


def finalize_trunk(store: Store, key: str, why: str) -> None:
    """Turn a trunk's training state, where it stands, into the finished trunk. Idempotent."""
    folder = store.trunk(key)
    if (folder / "result.json").exists():
        (folder / "state.pt").unlink(missing_ok=True)
        return
    state = read_state(folder / "state.pt")
    assert state is not None, f"no trunk {key} in training"
    assert state.get("progress") is None, f"trunk {key} is within an epoch"
    write_tensors(folder / "trunk.safetensors", state.get("ema", state["model"]))
    write_json(folder / "result.json", {"why": why, "reports": state["reports"]})
    (folder / "state.pt").unlink()


def read_trunk_spec(store: Store, key: str) -> TrunkSpec:
    """Read the spec of a trunk that has been begun."""
    spec = read_json(store.trunk(key) / "spec.json")
    assert spec is not None, f"no trunk {key}"
    return trunk_spec_from_json(spec)


def read_trunk_weights(store: Store, key: str) -> dict[str, torch.Tensor]:
    """Read the weights of a finished trunk, on the CPU, by the names of timm's state dict."""
    return read_tensors(store.trunk(key) / "trunk.safetensors")
