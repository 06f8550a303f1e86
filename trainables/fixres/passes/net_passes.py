"""The passes of one trunk's net at one test resolution and crop: over train, val and mirrored val.

They run under autocast: in bf16 on a GPU, in float32 on a CPU. What is made of the maps that they
leave, from the last batch norm on, is float32 everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import numpy as np
import torch

from trainables.data.view_cache import StreamedView, ViewCache
from trainables.evaluation.inference import View, outputs_of
from trainables.fixres.cell import CellSpec, load_model
from trainables.fixres.features import (
    Maps,
    NormStatistics,
    body_pass,
    current_statistics,
    features_of,
    features_pass,
    norm_statistics,
    pool_logits,
    set_norm,
)
from trainables.fixres.streaming.feature_shards import FeatureShards
from trainables.fixres.streaming.train_stream import TrainStream
from trainables.models import backbone, variants
from trainables.models.backbone import Net
from trainables.models.device import pick_device, rounded_as_autocast
from trainables.models.map_shape import map_shape
from trainables.storage.artifact_store import Store
from trainables.training.trunk import TrunkSpec, read_trunk_weights


class NetPasses:
    """A trunk's net over a cell's images: each pass runs when what it leaves is asked for first.

    Maps of a split are kept, unless it has more images than ``CellSpec.prefix``: then train is
    streamed, and val passes again for other features.

    Attributes:
        names: of the tensors that FixRes adapts.
        trained_norm: the last batch norm's statistics as trained.
        trained_classifier: weight (C, F) and bias (C,), float32 on the device.
    """

    def __init__(
        self,
        cell: CellSpec,
        trunk: TrunkSpec,
        store: Store,
        views: ViewCache,
        labels: Mapping[str, torch.Tensor],
        *,
        batch_size: int,
    ):
        """Load the trunk.

        Args:
            labels: (N,) int64 on the CPU, of each split.
            batch_size: images at once.
        """
        self.device, self.batch_size = pick_device(), batch_size
        self._cell, self._trunk, self._labels = cell, trunk, labels
        self._store, self._views = store, views
        self._preprocessing = variants.preprocessing(variants.get(trunk.variant))
        self._trunk_state = read_trunk_weights(store, cell.trunk)
        self._model = self.fresh_model()
        self.names = backbone.names_of(self._model)
        self.trained_norm = current_statistics(self._model)
        head = backbone.classifier_of(self._model)
        self.trained_classifier = head.weight.detach().clone(), head.bias.detach().clone()
        self._temporary = ExitStack()

    def close(self) -> None:
        """Delete the files of the maps."""
        self._temporary.close()

    # --- the net ------------------------------------------------------------------------------

    def model_with(self, statistics: NormStatistics) -> Net:
        """Give the one model that passes share, its last batch norm set to these statistics."""
        set_norm(self._model, statistics)
        return self._model

    def fresh_model(self) -> Net:
        """Build another model of the trunk."""
        return load_model(self._trunk, self._trunk_state, len(self._views.images.classes))

    # --- val ----------------------------------------------------------------------------------

    @cached_property
    def val_maps(self) -> Maps:
        """Val's maps."""
        return self._body_pass(self._val_view)

    @cached_property
    def _mirrored_val_maps(self) -> Maps:
        return self._body_pass(self._val_view, mirrored=True)

    @property
    def _val_view(self) -> np.ndarray:
        return self._views.view("val", self._cell.transform)

    def val_features(self, model: Net, *, mirrored: bool = False) -> torch.Tensor:
        """Compute val's features by a net that differs from the last batch norm on.

        Args:
            mirrored: whether the net sees the images mirrored, left for right.
        """
        if mirrored:
            if self.is_streamed("val"):
                return self.features_of_view(model, self._val_view, mirrored=True)
            return self._features(model, self._mirrored_val_maps)
        if self.is_streamed("val") and "val_maps" not in vars(self):  # fix_affine has made them
            return self.features_of_view(model, self._val_view)
        return self._features(model, self.val_maps)

    def sliding_window_logits(self) -> torch.Tensor:
        """Compute val's logits by the trunk as trained, with timm's test-time pooling."""
        model = self.model_with(self.trained_norm)
        window = map_shape(self._trunk.variant, self._trunk.train_res).side
        how: Any = {"batch_size": self.batch_size, "device": self.device}
        if not self.is_streamed("val"):
            return pool_logits(model, self.val_maps.tensor, window, **how)
        return outputs_of(
            lambda x: pool_logits(model, backbone.body(model, x), window, **how),
            self._val_view,
            self._preprocessing,
            **how,
        )

    # --- train --------------------------------------------------------------------------------

    @cached_property
    def train_maps(self) -> Maps:
        """Train's maps; where it is streamed, those of its prefix."""
        if self.is_streamed("train"):
            view = self._views.train_view(self._cell.transform, most=self._cell.prefix)
            return self._body_pass(view)
        beside = self._map_bytes(len(self._labels["train"]))
        return self._body_pass(
            self._views.train_view_kept_if_small(self._cell.transform, beside=beside)
        )

    def train_statistics(self, *, features: bool) -> NormStatistics:
        """Estimate the last batch norm's statistics over all train images.

        Args:
            features: whether those of train will be asked for: where it is streamed, the pass makes
                them too.
        """
        if self.is_streamed("train"):
            if features:
                self._make_room(self._cell.prefix or 0)
            return self.train_stream.statistics(features=features)
        return norm_statistics(
            self._model, self.train_maps, batch_size=self.batch_size, device=self.device
        )

    def train_features(self, model: Net, most: int | None = None) -> torch.Tensor:
        """Compute the features of train, which is not streamed, or of its first so many images."""
        return self._features(model, self.train_maps, most)

    @cached_property
    def train_stream(self) -> TrainStream:
        """Train as it is streamed."""
        return self.stream("train", self._views.train_view(self._cell.transform))

    def stream(self, name: str, view: StreamedView) -> TrainStream:
        """Stream a view of train, under its name in the cell's folder."""
        assert self._cell.prefix is not None
        shards = FeatureShards(
            folder=self._store.cell(self._cell.key),
            name=name,
            labels=self._labels["train"].numpy(),
            prefix=self._cell.prefix,
        )
        return TrainStream(
            model=self._model,
            body=self._frozen_body,
            view=view,
            shards=shards,
            preprocessing=self._preprocessing,
            batch_size=self.batch_size,
            device=self.device,
            scratch=self._views.scratch,
        )

    @cached_property
    def _frozen_body(self) -> Net:
        return backbone.frozen_body(self._model)

    # --- any split ----------------------------------------------------------------------------

    def is_streamed(self, split: str) -> bool:
        """Whether not all maps of a split are to be kept."""
        prefix = self._cell.prefix
        return prefix is not None and len(self._labels[split]) > prefix

    def features_of_view(self, model: Net, view: View, *, mirrored: bool = False) -> torch.Tensor:
        """Compute features from pixels, in a pass that keeps no maps."""
        return features_pass(
            model,
            view,
            self._preprocessing,
            batch_size=self.batch_size,
            device=self.device,
            mirrored=mirrored,
        )

    def _map_bytes(self, images: int) -> int:
        """Count the bytes of the maps of so many images of the cell."""
        number_bytes = rounded_as_autocast(torch.empty(0, device=self.device)).element_size()
        shape = map_shape(self._trunk.variant, self._cell.test_res)
        return images * shape.size(number_bytes)

    def _make_room(self, images: int) -> None:
        self._views.make_room_for_maps(self._map_bytes(images), images)

    def _body_pass(self, view: View, *, mirrored: bool = False) -> Maps:
        self._make_room(len(view))
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
