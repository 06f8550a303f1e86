"""The passes of one trunk at one test resolution and crop, and what arms work out from them.

Passes of the net run under autocast: in bf16 on a GPU, in float32 on a CPU. What is made of the
maps that they leave, from the last batch norm on, is float32 everywhere.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn.functional import linear

from trainables.data.view_cache import StreamedView, ViewCache
from trainables.evaluation.inference import View, outputs_of
from trainables.fixres import frechet
from trainables.fixres.affine import fit_affine, fit_affine_setting
from trainables.fixres.cell import CellSpec, RefitCell, load_model
from trainables.fixres.cross_fit import CrossFit
from trainables.fixres.features import (
    KeptFeatures,
    Maps,
    NormStatistics,
    body_pass,
    current_statistics,
    features_of,
    features_pass,
    norm_statistics,
    pool_logits,
    set_norm,
    write_features,
)
from trainables.fixres.head_settings import HeadGrid, HeadSetting
from trainables.fixres.heads import FittedHead, fit, fit_setting
from trainables.fixres.streaming.feature_shards import FeatureShards
from trainables.fixres.streaming.train_stream import TrainStream
from trainables.models import backbone, variants
from trainables.models.backbone import Net, State
from trainables.models.device import pick_device
from trainables.models.map_shape import map_shape
from trainables.models.memory_fit import MemoryFit
from trainables.models.parts.tensor_names import CLASSIFIER, STATISTICS
from trainables.storage.artifact_store import Store
from trainables.storage.damage import unless_damaged
from trainables.storage.files import read_record, write_json
from trainables.storage.hashing import content_hash
from trainables.training.trunk import read_trunk_spec, read_trunk_weights
from trainables.transforms.eval_transform import EvalTransform

_NO_ROOM_FOR_FEATURES = (
    "Memory runs out with a single classifier to be trained on the features of the train images: "
    "leave the fitted arms out of `arms`, or give trials GPUs with more memory."
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the arms of a cell will ask for, known before the first pass."""

    train: bool = True  # a pass over all train images
    features: bool = True  # features of train in the test transform


@dataclass(frozen=True)
class FittedAffine:
    """A net whose classifier and last batch norm were trained, and how."""

    model: Net
    setting: HeadSetting
    tried: int  # (setting, epoch) pairs that it was picked from, on val
    cross_fit: CrossFit | None = None  # what the pick is worth on val; None: nothing was picked


class CellPasses:
    """One trunk at one test resolution and crop: passes and intermediate results, each made once.

    A pass runs when the first arm asks for what it leaves, and is kept for the arms after it. Used
    as a context, which ends with the temporary files that hold the maps.

    Features are (N, F) on the CPU, float32, or float16 of train where it is streamed; logits (N, C)
    are float32 on the CPU; classifiers, weight (C, F) and bias (C,), float32 on the device.
    """

    def __init__(
        self,
        cell: CellSpec,
        store: Store,
        views: ViewCache,
        kept: KeptFeatures | None = None,
        wanted: Wanted | None = None,
    ):
        """Load the cell's trunk.

        Args:
            views: of the sweep's images; for a refit, of train and val in one, which have no val.
            kept: what another cell of the same passes has left of them.
            wanted: what will be asked for; None: anything.
        """
        assert not isinstance(cell, RefitCell) or cell.images == views.images.digest
        self.cell = cell
        self.trunk = read_trunk_spec(store, cell.trunk)
        self.device, self.batch_size = pick_device(), cell.batch_size
        splits = ("train",) if isinstance(cell, RefitCell) else ("train", "val")
        self.labels = {split: torch.tensor(views.images.split(split).labels) for split in splits}
        self._store, self._views, self._kept = store, views, kept
        self._wanted = wanted or Wanted()
        self._refit_setting = cell.setting if isinstance(cell, RefitCell) else None
        self._preprocessing = variants.preprocessing(variants.get(self.trunk.variant))
        self._trunk_state = read_trunk_weights(store, cell.trunk)
        self._model = self._load_trunk()
        self.names = backbone.names_of(self._model)
        self._trained_norm = current_statistics(self._model)
        head = backbone.classifier_of(self._model)
        self.trained_classifier = head.weight.detach().clone(), head.bias.detach().clone()
        self._temporary = ExitStack()

    def __enter__(self) -> CellPasses:
        return self

    def __exit__(self, *_: object) -> None:
        self._temporary.close()

    # --- logits of val ------------------------------------------------------------------------

    def trained_logits(self) -> torch.Tensor:
        """Compute val's logits by the trunk as trained, in the cell's transform."""
        return self.logits(self.val_features_as_trained, *self.trained_classifier)

    def sliding_window_logits(self) -> torch.Tensor:
        """Compute val's logits by the trunk as trained, with timm's test-time pooling."""
        model = self._model_with(self._trained_norm)
        window = map_shape(self.trunk.variant, self.trunk.train_res).side
        how: Any = {"batch_size": self.batch_size, "device": self.device}
        if not self._is_streamed("val"):
            return pool_logits(model, self._val_maps.tensor, window, **how)
        return outputs_of(
            lambda x: pool_logits(model, backbone.body(model, x), window, **how),
            self._val_view,
            self._preprocessing,
            **how,
        )

    def logits_of_head(self, model: Net) -> torch.Tensor:
        """Compute val's logits by another net's last batch norm and classifier."""
        features = self._val_features_by(model)
        classifier = backbone.classifier_of(model)
        return self.logits(features, classifier.weight, classifier.bias)

    @torch.inference_mode()
    def logits(
        self, features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """Classify features: (N, F) -> (N, C)."""
        return linear(features.to(self.device), weight, bias).cpu()

    # --- features and statistics --------------------------------------------------------------

    @cached_property
    def val_features_as_trained(self) -> torch.Tensor:
        """Val's features under the statistics that the trunk was trained with."""
        return self._val_features_by(self._model_with(self._trained_norm))

    @cached_property
    def statistics(self) -> NormStatistics:
        """The last batch norm's statistics over all train images in the cell's transform."""
        if self._kept is not None:
            return self._kept.statistics
        if self._is_streamed("train"):
            return self._train_stream.statistics(features=self._wanted.features)
        return norm_statistics(
            self._model, self._train_maps, batch_size=self.batch_size, device=self.device
        )

    def statistics_state(self) -> State:
        """Give :attr:`statistics` as the net keeps them: float32, by their tensors' names."""
        names = self.names.of(STATISTICS)
        found = (self.statistics.mean.float(), self.statistics.var.float()) if names else ()
        return dict(zip(names, found, strict=True))

    def classifier_state(self, weight: torch.Tensor, bias: torch.Tensor) -> State:
        """Give a classifier as the net keeps it, by its tensors' names."""
        return dict(zip(self.names.of(CLASSIFIER), (weight, bias), strict=True))

    @cached_property
    def val_features(self) -> torch.Tensor:
        """Val's features under the re-estimated statistics, which are written to the store too."""
        features = self._kept_features("val", "val")
        if features is None:
            features = self._val_features_by(self._model_with(self.statistics))
            self._write_features("val", "val", features)
        return features

    @cached_property
    def val_features_mirrored_as_trained(self) -> torch.Tensor:
        """:attr:`val_features_mirrored` under the statistics that the trunk was trained with."""
        mirrored = self._val_features_by(self._model_with(self._trained_norm), mirrored=True)
        return (self.val_features_as_trained + mirrored) / 2

    @cached_property
    def val_features_mirrored(self) -> torch.Tensor:
        """The mean of :attr:`val_features` and those of val's images mirrored.

        A classifier is linear: of the mean of two features it makes the mean of their logits.
        """
        mirrored = self._val_features_by(self._model_with(self.statistics), mirrored=True)
        return (self.val_features + mirrored) / 2

    @cached_property
    def train_features(self) -> torch.Tensor:
        """Train's features under the re-estimated statistics, written to the store too.

        They are float16 where train is streamed.
        """
        if self._is_streamed("train"):
            return self._streamed_features(self._train_stream)
        kept = self._kept_features("train", "train")
        if kept is not None:
            return kept
        features = self._features(self._model_with(self.statistics), self._train_maps)
        self._write_features("train", "train", features)
        return features

    def mild_features(self) -> list[torch.Tensor]:
        """Run a pass over each mildly augmented view of train, under the re-estimated statistics.

        Returns:
            Features of each view, which are written to the store too.
        """
        return [self._mild_features(number) for number in range(self.cell.views)]

    def _mild_features(self, number: int) -> torch.Tensor:
        """Give the features of one view: each is read once a cell, and its pixels are not kept."""
        name = f"train-mild-{number}"
        view = self._views.mild_view(
            "train",
            self.cell.transform,
            number=number,
            hflip=self.trunk.recipe.augmentation.hflip,
            seed=self.cell.seed,
        )
        if self._is_streamed("train"):
            return self._streamed_features(self._stream(name, view))
        features = self._kept_features(name, "train")
        if features is None:
            features = self._pass_to_features(self._model_with(self.statistics), view)
            self._write_features(name, "train", features)
        return features

    # --- fitted classifiers -------------------------------------------------------------------

    @cached_property
    def fix_head(self) -> FittedHead:
        """The classifier trained on train's features: of ``fix``, where ``fix_affine`` starts."""
        return self.fit_head([self.train_features], self.cell.heads)

    @cached_property
    def fix_flip_head(self) -> FittedHead:
        """The same, of which val picks by what it has on each image and its mirror image."""
        return self.fit_head([self.train_features], self.cell.heads, mirrored=True)

    def fit_head(
        self, views: list[torch.Tensor], grid: HeadGrid, *, mirrored: bool = False
    ) -> FittedHead:
        """Train classifiers, from the trunk's own, on features of train; keep the best on val.

        In a refit: train one, with the setting of the cell.

        Args:
            views: features of the train images under the re-estimated statistics, as those of val
                are on which the best is kept; each epoch of training is on the next view.
            grid: the settings to try.
            mirrored: whether val picks by :attr:`val_features_mirrored`.
        """
        # Before there is a search for room, which a pass has of its own.
        val = None
        if self._refit_setting is None:
            val = self.val_features_mirrored if mirrored else self.val_features
        memory_fit = MemoryFit(self.device, minimum=1, error=_NO_ROOM_FOR_FEATURES)
        return memory_fit.run(lambda n: self._fit_head(views, val, grid, n), len(grid.settings))

    def _fit_head(
        self, views: list[torch.Tensor], val: torch.Tensor | None, grid: HeadGrid, at_once: int
    ) -> FittedHead:
        """Do the work of :meth:`fit_head`, on so many settings at once."""
        train = [view.to(self.device) for view in views], self.labels["train"].to(self.device)
        start, seed = self.trained_classifier, self.cell.seed
        if val is None:
            assert self._refit_setting is not None
            return fit_setting(*train, *start, self._refit_setting, grid, seed=seed)
        on_val = val.to(self.device), self.labels["val"].to(self.device)
        return fit(*train, *on_val, *start, grid, seed=seed, at_once=at_once)

    def fit_affine(self) -> FittedAffine:
        """Train the last batch norm's scale and shift with the classifier, on train's maps.

        Where train is streamed, those are the maps of its prefix: of a sample.
        By the setting that :attr:`fix_head` was trained with, for as many epochs as val likes best;
        in a refit, by the setting of the cell.
        """
        model = self._load_trunk()
        set_norm(model, self.statistics)
        maps = self._train_maps
        train = maps, self.labels["train"][: len(maps.tensor)]
        grid, seed = self.cell.heads, self.cell.seed
        if self._refit_setting is not None:
            setting = self._refit_setting
            fit_affine_setting(model, train, setting, grid, seed=seed, device=self.device)
            return FittedAffine(model, setting, 0)
        head, val = self.fix_head, (self._val_maps, self.labels["val"])
        assert head.cross_fit is not None, "val has picked the setting"
        pick = fit_affine(
            model,
            train,
            val,
            head.setting,
            grid,
            half_settings=head.cross_fit.picked,
            seed=seed,
            batch_size=self.batch_size,
            device=self.device,
        )
        return FittedAffine(model, pick.setting, head.tried + pick.tried, pick.cross_fit)

    def frechet_classifier(self, images: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Fold the map of :mod:`.frechet` into the trunk's classifier: weight and bias.

        Args:
            images: of train, at most, that laws are fitted to at either resolution.
        """
        if self._wanted.train and self._kept is None and not self._is_streamed("train"):
            model = self._model_with(self._trained_norm)
            new = self._features(model, self._train_maps, most=images)
        else:
            new = self._sampled_features(self.cell.transform, images)
        old_law, new_law = frechet.fit_laws(
            self._trained_quantiles(images), frechet.quantiles(new.numpy())
        )
        return frechet.fold(frechet.map_between(old_law, new_law), *self.trained_classifier)

    # --- passes and parts ---------------------------------------------------------------------

    @cached_property
    def _val_maps(self) -> Maps:
        return self._body_pass(self._val_view)

    @cached_property
    def _mirrored_val_maps(self) -> Maps:
        return self._body_pass(self._val_view, mirrored=True)

    @property
    def _val_view(self) -> np.ndarray:
        return self._views.view("val", self.cell.transform)

    @cached_property
    def _train_maps(self) -> Maps:
        """Train's maps; where it is streamed, those of its prefix."""
        if self._is_streamed("train"):
            view = self._views.train_view(self.cell.transform, most=self.cell.prefix)
            return self._body_pass(view)
        return self._body_pass(self._views.train_view_kept_if_small(self.cell.transform))

    def _is_streamed(self, split: str) -> bool:
        """Whether not all maps of a split are to be kept."""
        prefix = self.cell.prefix
        return prefix is not None and len(self.labels[split]) > prefix

    @cached_property
    def _train_stream(self) -> TrainStream:
        return self._stream("train", self._views.train_view(self.cell.transform))

    @cached_property
    def _frozen_body(self) -> Net:
        return backbone.frozen_body(self._model)

    def _stream(self, name: str, view: StreamedView) -> TrainStream:
        assert self.cell.prefix is not None
        folder, labels = self._store.cell(self.cell.key), self.labels["train"].numpy()
        return TrainStream(
            model=self._model,
            body=self._frozen_body,
            view=view,
            shards=FeatureShards(folder=folder, name=name, labels=labels, prefix=self.cell.prefix),
            preprocessing=self._preprocessing,
            batch_size=self.batch_size,
            device=self.device,
            scratch=self._views.scratch,
        )

    def _streamed_features(self, stream: TrainStream) -> torch.Tensor:
        kept = None if self._kept is None else stream.shards.within(self._kept.folder).read()
        return stream.features(self.statistics) if kept is None else kept

    def forget_progress(self) -> None:
        """Delete what only a pass that is cut off would need, once the cell's results are there."""
        if self._is_streamed("train"):
            self._train_stream.shards.end()

    def _body_pass(self, view: View, *, mirrored: bool = False) -> Maps:
        maps = body_pass(
            self._model,
            view,
            self._preprocessing,
            batch_size=self.batch_size,
            device=self.device,
            scratch=self._views.scratch,
            mirrored=mirrored,
        )
        return self._temporary.enter_context(maps)

    def _features(self, model: Net, maps: Maps, most: int | None = None) -> torch.Tensor:
        return features_of(model, maps, batch_size=self.batch_size, device=self.device, most=most)

    def _val_features_by(self, model: Net, *, mirrored: bool = False) -> torch.Tensor:
        """Compute val's features by a net that differs from the last batch norm on."""
        if mirrored:
            if self._is_streamed("val"):
                return self._pass_to_features(model, self._val_view, mirrored=True)
            return self._features(model, self._mirrored_val_maps)
        if self._is_streamed("val") and "_val_maps" not in vars(self):  # fix_affine has made them
            return self._pass_to_features(model, self._val_view)
        return self._features(model, self._val_maps)

    def _pass_to_features(self, model: Net, view: View, *, mirrored: bool = False) -> torch.Tensor:
        return features_pass(
            model,
            view,
            self._preprocessing,
            batch_size=self.batch_size,
            device=self.device,
            mirrored=mirrored,
        )

    def _kept_features(self, name: str, split: str) -> torch.Tensor | None:
        return None if self._kept is None else self._kept.read(name, self.labels[split])

    def _write_features(self, name: str, split: str, features: torch.Tensor) -> None:
        path = self._store.cell(self.cell.key) / f"{name}.arrow"
        write_features(path, features, self.labels[split].numpy())

    def _sampled_features(self, transform: EvalTransform, images: int) -> torch.Tensor:
        """Run a pass over the first images of train, under the statistics of the trunk."""
        view = self._views.train_view(transform, most=images)
        return self._pass_to_features(self._model_with(self._trained_norm), view)

    def _trained_quantiles(self, images: int) -> np.ndarray:
        """Quantiles of pooled activations at the train resolution, worked out once a trunk."""
        transform = replace(self.cell.transform, test_res=self.trunk.train_res)
        key_parts = ["activations 1", self.cell.trunk, transform]
        digest = self._views.images.digest
        if digest != self.trunk.images:  # a pretrained trunk, refitted on other images
            key_parts.append(digest)
        path = self._store.activations(content_hash(*key_parts))
        values = unless_damaged(lambda: read_record(path, _quantiles_from_json))
        if values is None:
            values = frechet.quantiles(self._sampled_features(transform, images).numpy())
            write_json(path, values.tolist())
        return values

    def _model_with(self, statistics: NormStatistics) -> Net:
        """The one model that passes share, its last batch norm set to these statistics."""
        set_norm(self._model, statistics)
        return self._model

    def _load_trunk(self) -> Net:
        return load_model(self.trunk, self._trunk_state, len(self._views.images.classes))


def _quantiles_from_json(value: list[float]) -> np.ndarray:
    """Read quantiles; raises anything for what is no list of so many numbers."""
    values = np.array(value, dtype=float)
    if values.shape != frechet.PROBABILITIES.shape:
        raise ValueError("they are no quantiles")
    return values
