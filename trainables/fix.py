"""Adapt one trunk to one test resolution: a cell, with a result for each arm.

    none   the trunk as it was trained, at the larger test resolution
    fix    FixRes (Touvron et al., arXiv:1906.06423, section 4.2): the last batch norm's statistics
           re-estimated at the test resolution, then the classifier trained, all in the test
           transform

Passes of the net for all arms together: one over train, one over val.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainables import backbones, variants
from trainables.backbones import CLASSIFIER, LAST_NORM, Net, State
from trainables.evaluate import Score, logits_of, pick_device, score
from trainables.features import (
    Maps,
    features_of,
    norm_statistics,
    pass_over,
    read_features,
    set_norm,
    write_features,
)
from trainables.heads import HeadGrid, HeadSetting, best, fit
from trainables.keys import digest
from trainables.store import Store, read_json, read_tensors, write_json, write_tensors
from trainables.trunk import TrunkSpec, finished_trunk
from trainables.variants import Preprocessing
from trainables.workplace import Workplace

STAGE = "cell 1"  # raise it when the same spec would give other results
ARMS = ("none", "fix")


@dataclass(frozen=True, kw_only=True)
class CellSpec:
    """All that a cell depends on, beside its trunk."""

    trunk: str  # key
    test_res: int  # px
    heads: HeadGrid
    batch_size: int
    seed: int

    @property
    def key(self) -> str:
        return digest(STAGE, self)


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One arm of a cell on one split."""

    arm: str
    score: Score
    seconds: float
    head: HeadSetting | None = None
    head_settings: int = 0  # how many the head was picked from, on val


def arm_result(value: Mapping[str, Any]) -> ArmResult:
    """A result from its JSON."""
    head = HeadSetting(**value["head"]) if value["head"] else None
    return ArmResult(**{**value, "score": Score(**value["score"]), "head": head})


def recorded_results(store: Store, key: str) -> list[ArmResult] | None:
    """A finished cell's results, or None."""
    rows = read_json(store.cell(key) / "rows.json")
    return None if rows is None else [arm_result(r) for r in rows]


def load_model(spec: TrunkSpec, state: State, classes: int) -> Net:
    """The trunk's model in eval mode, on the device."""
    model = backbones.build(variants.get(spec.variant), classes)
    model.load_state_dict(state)
    return backbones.place(model, pick_device()).eval()


def adapted_state(store: Store, trunk: str, cell: str, arm: str) -> State:
    """The whole net of one arm: the trunk's weights, and what the arm changed."""
    _, state = finished_trunk(store, trunk)
    if arm != "none":
        state = {**state, **read_tensors(store.cell(cell) / "delta.safetensors")}
    return state


def adapt(cell: CellSpec, store: Store, place: Workplace) -> list[ArmResult]:
    """Work out a cell and leave it in the store.

    Leaves the features of train and val (memory-mapped Arrow), ``delta.safetensors`` (classifier
    and last batch norm: all that the arm ``fix`` changes) and, last of all, ``rows.json``.
    """
    trunk, state = finished_trunk(store, cell.trunk)
    model = load_model(trunk, state, len(place.images.classes))
    passing = _Passing(cell, variants.preprocessing(variants.get(trunk.variant)), place)
    folder = store.cell(cell.key)
    began = time.monotonic()
    with passing.maps(model, "val") as val:
        none = passing.score_maps(model, val)
        halfway = time.monotonic()
        with passing.maps(model, "train") as train:
            set_norm(model, norm_statistics(model, train, **passing.size))
            passing.keep_features(model, train, "train", folder)
        passing.keep_features(model, val, "val", folder)
    fixed, head, settings = _fit_head(cell, model, folder)
    ended = time.monotonic()
    results = [
        ArmResult(arm="none", score=none, seconds=round(halfway - began, 3)),
        ArmResult(
            arm="fix",
            score=fixed,
            seconds=round(ended - halfway, 3),
            head=head,
            head_settings=settings,
        ),
    ]
    write_json(folder / "spec.json", cell)
    write_json(folder / "rows.json", results)
    return results


class _Passing:
    """The passes of one cell over its splits."""

    def __init__(self, cell: CellSpec, preprocessing: Preprocessing, place: Workplace):
        self.cell, self.preprocessing, self.place = cell, preprocessing, place
        self.size: dict[str, Any] = {"batch_size": cell.batch_size, "device": pick_device()}

    def maps(self, model: Net, split: str) -> Maps:
        view = self.place.view(split, self.cell.test_res, self.preprocessing.interpolation)
        scratch = self.place.cache / "scratch"
        return pass_over(model, view, self.preprocessing, scratch=scratch, **self.size)

    def score_maps(self, model: Net, val: Maps) -> Score:
        """Val as the model stands."""
        features = torch.from_numpy(features_of(model, val, **self.size))
        with torch.inference_mode():
            logits = model.classifier(features.to(self.size["device"])).cpu()
        return score(logits, torch.tensor(self.place.images.split("val").labels), "val")

    def keep_features(self, model: Net, maps: Maps, split: str, folder: Path) -> None:
        features = features_of(model, maps, **self.size)
        write_features(folder / f"{split}.arrow", features, self.place.images.split(split).labels)


def _fit_head(cell: CellSpec, model: Net, folder: Path) -> tuple[Score, HeadSetting, int]:
    """Fit all heads on the kept features and put the one that val likes best into the model.

    Returns:
        Its score on val, its setting, and among how many it was picked.
    """
    device = pick_device()

    def kept(split: str) -> tuple[torch.Tensor, torch.Tensor]:
        features, labels = read_features(folder / f"{split}.arrow")
        return torch.tensor(features, device=device), torch.tensor(labels, device=device)

    head, (val, val_labels) = model.classifier, kept("val")
    heads = fit(*kept("train"), head.weight, head.bias, cell.heads, seed=cell.seed)
    chosen = best(heads, val, val_labels)
    with torch.inference_mode():
        head.weight.copy_(heads.weight[chosen])
        head.bias.copy_(heads.bias[chosen])
        logits = head(val).cpu()
    state = model.state_dict()
    delta = {name: state[name] for name in (*CLASSIFIER, *LAST_NORM)}
    write_tensors(folder / "delta.safetensors", delta)
    return score(logits, val_labels.cpu(), "val"), heads.settings[chosen], len(heads.settings)


def read_test(
    store: Store, trunk_key: str, cell: CellSpec, arm: str, place: Workplace
) -> ArmResult:
    """Score one arm of one cell on the test split, once: later calls give the first reading."""
    path = store.test_reading(digest(cell.key, arm))
    found = read_json(path)
    if found is None:
        began = time.monotonic()
        trunk, _ = finished_trunk(store, trunk_key)
        model = load_model(
            trunk, adapted_state(store, trunk_key, cell.key, arm), len(place.images.classes)
        )
        preprocessing = variants.preprocessing(variants.get(trunk.variant))
        view = place.view("test", cell.test_res, preprocessing.interpolation)
        logits = logits_of(
            model, view, preprocessing, batch_size=cell.batch_size, device=pick_device()
        )
        labels = torch.tensor(place.images.split("test").labels)
        reading = ArmResult(
            arm=arm,
            score=score(logits, labels, "test"),
            seconds=round(time.monotonic() - began, 3),
        )
        write_json(path, reading)
        return reading
    return arm_result(found)
