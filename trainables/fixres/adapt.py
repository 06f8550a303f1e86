"""Adapt one trunk to one test resolution: a cell, with a result for each arm.

    none        the trunk as trained, at the weights' native crop ratio
    crop1       the same on the sweep's test crop, the full one (crop ratio 1.0) unless told
    pool        crop1, with timm's test-time pooling instead of the mean
    bn          the last batch norm's statistics re-estimated in the test transform
    frechet     pooled activations mapped back by a parametric law (:mod:`.frechet`)
    fix         bn, then the classifier trained in the test transform: FixRes (Touvron et al.,
                arXiv:1906.06423, section 4.2), its first set of transforms
    fix_aug     bn, then the classifier trained on stored views of the mild augmentation with label
                smoothing: FixEfficientNet (arXiv:2003.08237)
    fix_affine  fix's setting, and the norm's scale and shift trained too, on the kept maps

Passes of the net for all arms together: one over train and one over val, in the test transform;
one more over val for ``none``, where the native crop ratio is another; V over train for the V views
of ``fix_aug``; and, once a trunk, one over at most ``FRECHET_IMAGES`` train images at the train
resolution for ``frechet``. All else is worked out from the maps that the passes leave.

Where this differs from the released FixRes code: there the last batch norm's statistics follow
each batch while the classifier trains, and the last epoch is kept; here they are estimated once,
over all train images in float64, and then stand, and val picks the setting and the epoch. (A
refit, :class:`trainables.fixres.cell.RefitCell`, is told both and has no val.) There
the test transform of EfficientNets is bilinear at 224/256; here it is what their published figures
were measured with (crop ratio 1.0, the weights' own interpolation and normalisation) unless told.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from trainables.data.view_cache import ViewCache
from trainables.errors import SweepError
from trainables.evaluation.inference import logits_of
from trainables.evaluation.metrics import score
from trainables.fixres import frechet
from trainables.fixres.affine import fit_affine, fit_affine_setting
from trainables.fixres.arms import ARMS
from trainables.fixres.cell import (
    PREDICTIONS,
    ArmResult,
    CellSpec,
    RefitCell,
    delta_path,
    load_model,
    serving_transform,
    write_predictions,
)
from trainables.fixres.features import (
    Maps,
    NormStatistics,
    features_of,
    features_pass,
    norm_of,
    norm_statistics,
    pass_over,
    pool_logits,
    set_norm,
    write_features,
)
from trainables.fixres.head_settings import HeadGrid, HeadSetting
from trainables.fixres.heads import FittedHead, fit, fit_setting
from trainables.models import variants
from trainables.models.backbone import Net, State
from trainables.models.device import pick_device
from trainables.models.tensor_names import CLASSIFIER, STATISTICS
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_json, write_json, write_tensors
from trainables.storage.hashing import content_hash
from trainables.training.trunk import TrunkSpec, read_trunk_spec, read_trunk_weights
from trainables.transforms.resolution import feature_side

FRECHET_IMAGES = 1024  # over a million activations: their quantiles are known to three digits


@dataclass(frozen=True, kw_only=True)
class _Adapted:
    """What an arm makes of the trunk."""

    logits: Callable[[], torch.Tensor]  # (N, C) of val, on the CPU; a refit never asks
    delta: State  # the tensors that it changed
    head: HeadSetting | None = None
    tried: int = 0


def adapt_cell(cell: CellSpec, store: Store, place: ViewCache) -> list[ArmResult]:
    """Work out a cell and leave it in the store.

    Leaves the features that classifiers were trained on (memory-mapped Arrow), what each arm
    changed (``delta-<arm>.safetensors``), what each predicts for val (``predictions.arrow``) and,
    last of all, ``rows.json``. A refit has no val: no predictions come of it, and no row.

    Raises:
        SweepError: what a refit comes to is not finite.
    """
    trunk, state = read_trunk_spec(store, cell.trunk), read_trunk_weights(store, cell.trunk)
    results, predictions = [], {}
    with ExitStack() as stack:
        bench = _Bench(cell, trunk, state, store, place, stack)
        for arm in (arm for arm in ARMS if arm in cell.arms):
            began = time.monotonic()
            made: _Adapted = getattr(bench, arm)()
            assert set(made.delta) == set(ARMS[arm].changes)
            if isinstance(cell, RefitCell):
                _check_finite(arm, made.delta)
            if made.delta:
                write_tensors(delta_path(store, cell.key, arm), made.delta)
            if isinstance(cell, RefitCell):
                continue
            logits = made.logits()
            predictions[arm] = logits.argmax(dim=1)
            results.append(
                ArmResult(
                    arm=arm,
                    score=score(logits, bench.labels["val"], "val"),
                    seconds=round(time.monotonic() - began, 3),
                    head=made.head,
                    head_tried=made.tried,
                )
            )
    if predictions:
        write_predictions(store.cell(cell.key) / PREDICTIONS, bench.labels["val"], predictions)
    write_json(store.cell(cell.key) / "spec.json", cell)
    write_json(store.cell(cell.key) / "rows.json", results)
    return results


def _check_finite(arm: str, delta: State) -> None:
    """Nobody judges a refit."""
    if not all(bool(tensor.isfinite().all()) for tensor in delta.values()):
        raise SweepError(f"The arm {arm}, fitted again as it was chosen, is not finite.")


class _Bench:
    """One trunk at one test resolution: a method for each arm, and what arms share, made once."""

    def __init__(
        self,
        cell: CellSpec,
        trunk: TrunkSpec,
        state: State,
        store: Store,
        place: ViewCache,
        stack: ExitStack,
    ):
        self.cell, self.trunk, self.store, self.place = cell, trunk, store, place
        self._state = state
        self.model = self._fresh_model()
        self.preprocessing = variants.preprocessing(variants.get(trunk.variant))
        self.size: dict[str, Any] = {"batch_size": cell.batch_size, "device": pick_device()}
        self.device: torch.device = self.size["device"]
        self.folder = store.cell(cell.key)
        self.settled = cell.setting if isinstance(cell, RefitCell) else None
        assert not isinstance(cell, RefitCell) or cell.images == place.images.digest
        splits = ("train",) if isinstance(cell, RefitCell) else ("train", "val")
        self.labels = {split: torch.tensor(place.images.split(split).labels) for split in splits}
        self._stack = stack
        self._trained_norm = norm_of(self.model)
        head = self.model.classifier
        self.weight, self.bias = head.weight.detach().clone(), head.bias.detach().clone()

    # --- the arms -----------------------------------------------------------------------------

    def none(self) -> _Adapted:
        transform = serving_transform(self.trunk, self.cell, "none")
        if transform == self.cell.transform:
            return self.crop1()

        def logits() -> torch.Tensor:
            set_norm(self.model, self._trained_norm)
            view = self.place.view("val", transform)
            return logits_of(self.model, view, self.preprocessing, **self.size)

        return _Adapted(logits=logits, delta={})

    def crop1(self) -> _Adapted:
        return _Adapted(
            logits=lambda: self._logits(self._trained_val, self.weight, self.bias), delta={}
        )

    def pool(self) -> _Adapted:
        def logits() -> torch.Tensor:
            set_norm(self.model, self._trained_norm)
            window = feature_side(self.trunk.train_res)
            return pool_logits(self.model, self._val_maps.tensor, window, **self.size)

        return _Adapted(logits=logits, delta={})

    def bn(self) -> _Adapted:
        return _Adapted(
            logits=lambda: self._logits(self._val, self.weight, self.bias),
            delta=self._statistics(),
        )

    def frechet(self) -> _Adapted:
        set_norm(self.model, self._trained_norm)
        new = features_of(self.model, self._train_maps, most=FRECHET_IMAGES, **self.size)
        old_law, new_law = frechet.fit_laws(
            self._trained_quantiles(), frechet.quantiles(new.numpy())
        )
        scalar = frechet.map_between(old_law, new_law)
        weight, bias = frechet.fold(scalar, self.weight, self.bias)
        return _Adapted(
            logits=lambda: self._logits(self._trained_val, weight, bias),
            delta=dict(zip(CLASSIFIER, (weight, bias), strict=True)),
        )

    def fix(self) -> _Adapted:
        return self._of_head(self._fixed_head)

    def fix_aug(self) -> _Adapted:
        smoothed = tuple(s for s in self.cell.heads.label_smoothing if s > 0)
        grid = replace(self.cell.heads, label_smoothing=smoothed)
        return self._of_head(self._fit(self._mild_features(), grid))

    def fix_affine(self) -> _Adapted:
        model = self._fresh_model()
        set_norm(model, self._statistics_here)
        setting, tried = self._fit_affine(model)
        state = model.state_dict()

        def logits() -> torch.Tensor:
            features = features_of(model, self._val_maps, **self.size)
            return self._logits(features, *(state[name] for name in CLASSIFIER))

        return _Adapted(
            logits=logits,
            delta={name: state[name] for name in ARMS["fix_affine"].changes},
            head=setting,
            tried=tried,
        )

    def _fit_affine(self, model: Net) -> tuple[HeadSetting, int]:
        """Returns the setting, and among how many it was picked."""
        train = (self._train_maps, self.labels["train"])
        told: dict[str, Any] = {"grid": self.cell.heads, "seed": self.cell.seed}
        if self.settled is not None:
            fit_affine_setting(model, train, self.settled, **told, device=self.device)
            return self.settled, 0
        fixed, val = self._fixed_head, (self._val_maps, self.labels["val"])
        setting, tried = fit_affine(model, train, val, fixed.setting, **told, **self.size)
        return setting, fixed.tried + tried

    # --- what they share ------------------------------------------------------------------------

    @cached_property
    def _val_maps(self) -> Maps:
        return self._maps("val")

    @cached_property
    def _train_maps(self) -> Maps:
        return self._maps("train")

    def _maps(self, split: str) -> Maps:
        view = self.place.view(split, self.cell.transform)
        maps = pass_over(
            self.model, view, self.preprocessing, scratch=self.place.scratch, **self.size
        )
        return self._stack.enter_context(maps)

    @cached_property
    def _trained_val(self) -> torch.Tensor:
        """Val's features under the norm that the trunk was trained with."""
        set_norm(self.model, self._trained_norm)
        return features_of(self.model, self._val_maps, **self.size)

    @cached_property
    def _statistics_here(self) -> NormStatistics:
        return norm_statistics(self.model, self._train_maps, **self.size)

    @cached_property
    def _val(self) -> torch.Tensor:
        """Val's features under the norm re-estimated here."""
        return self._kept_features("val", self._val_maps)

    @cached_property
    def _train(self) -> torch.Tensor:
        return self._kept_features("train", self._train_maps)

    def _kept_features(self, split: str, maps: Maps) -> torch.Tensor:
        set_norm(self.model, self._statistics_here)
        features = features_of(self.model, maps, **self.size)
        self._keep(split, split, features)
        return features

    def _keep(self, name: str, split: str, features: torch.Tensor) -> None:
        write_features(self.folder / f"{name}.arrow", features, self.labels[split].numpy())

    @cached_property
    def _fixed_head(self) -> FittedHead:
        return self._fit([self._train], self.cell.heads)

    def _mild_features(self) -> list[torch.Tensor]:
        """Of each view of the mild augmentation, under the norm re-estimated here."""
        set_norm(self.model, self._statistics_here)
        views = []
        for number in range(self.cell.views):
            view = self.place.mild_view(
                "train",
                self.cell.transform,
                number=number,
                hflip=self.trunk.recipe.augmentation.hflip,
                seed=self.cell.seed,
            )
            views.append(features_pass(self.model, view, self.preprocessing, **self.size))
            self._keep(f"train-mild-{number}", "train", views[-1])
        return views

    def _trained_quantiles(self) -> np.ndarray:
        """Of the pooled activations at the train resolution: worked out once a trunk."""
        at_home = replace(self.cell.transform, test_res=self.trunk.train_res)
        named = ["activations 1", self.cell.trunk, at_home]
        if self.place.images.digest != self.trunk.images:  # a pretrained one's, refitted
            named.append(self.place.images.digest)
        path = self.store.activations(content_hash(*named))
        found = read_json(path)
        if found is None:
            set_norm(self.model, self._trained_norm)
            view = self.place.view("train", at_home, most=FRECHET_IMAGES)
            features = features_pass(self.model, view, self.preprocessing, **self.size)
            found = frechet.quantiles(features.numpy()).tolist()
            write_json(path, found)
        return np.array(found)

    # --- small change ---------------------------------------------------------------------------

    def _fresh_model(self) -> Net:
        return load_model(self.trunk, self._state, len(self.place.images.classes))

    def _statistics(self) -> State:
        mean, var = self._statistics_here.mean, self._statistics_here.var
        return dict(zip(STATISTICS, (mean.float(), var.float()), strict=True))

    def _fit(self, views: list[torch.Tensor], grid: HeadGrid) -> FittedHead:
        def here(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(self.device)

        train = [here(view) for view in views], here(self.labels["train"])
        start, seed = (self.weight, self.bias), self.cell.seed
        if self.settled is not None:
            return fit_setting(*train, *start, self.settled, grid, seed=seed)
        val = here(self._val), here(self.labels["val"])
        return fit(*train, *val, *start, grid, seed=seed)

    def _of_head(self, head: FittedHead) -> _Adapted:
        delta = dict(zip(CLASSIFIER, (head.weight, head.bias), strict=True))
        return _Adapted(
            logits=lambda: self._logits(self._val, head.weight, head.bias),
            delta={**delta, **self._statistics()},
            head=head.setting,
            tried=head.tried,
        )

    @torch.inference_mode()
    def _logits(
        self, features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        return F.linear(features.to(self.device), weight, bias).cpu()
