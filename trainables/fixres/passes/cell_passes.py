"""What the arms of a cell share: features, statistics and classifiers, each made once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch.nn.functional import linear

from trainables.data.view_cache import ViewCache
from trainables.fixres import frechet
from trainables.fixres.affine import fit_affine, fit_affine_setting
from trainables.fixres.cell import CellSpec, RefitCell
from trainables.fixres.cross_fit import CrossFit
from trainables.fixres.feature_parts import FeatureParts, Features
from trainables.fixres.features import (
    KeptFeatures,
    NormStatistics,
    set_norm,
    write_features,
)
from trainables.fixres.head_settings import HeadGrid, HeadSetting
from trainables.fixres.heads import FittedHead, fit, fit_setting
from trainables.fixres.passes.net_passes import NetPasses
from trainables.fixres.streaming.train_stream import TrainStream
from trainables.models import backbone
from trainables.models.backbone import Net, State
from trainables.models.device import free_cache
from trainables.models.memory_fit import MemoryFit
from trainables.models.out_of_memory import running_out_told
from trainables.models.parts.tensor_names import CLASSIFIER, STATISTICS
from trainables.storage.artifact_store import Store
from trainables.storage.damage import unless_damaged
from trainables.storage.files import read_record, write_json
from trainables.storage.hashing import content_hash
from trainables.training.trunk import read_trunk_spec
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

    Each is made when the first arm asks for it, and is kept for the arms after it. Used as a
    context, which ends with the temporary files of the passes.

    Features are (N, F) on the CPU, float32, or float16 in parts of train where it is streamed;
    logits (N, C) are float32 on the CPU; classifiers, weight (C, F) and bias (C,), float32 on the
    device.
    """

    def __init__(
        self,
        cell: CellSpec,
        store: Store,
        views: ViewCache,
        kept: KeptFeatures | None = None,
        wanted: Wanted | None = None,
        images_at_once: int | None = None,
    ):
        """Load the cell's trunk.

        Args:
            views: of the sweep's images; for a refit, of train and val in one, which have no val.
            kept: what another cell of the same passes has left of them.
            wanted: what will be asked for; None: anything.
            images_at_once: in passes of the net; None: the cell's batch.
        """
        assert not isinstance(cell, RefitCell) or cell.images == views.images.digest
        self.cell = cell
        self.trunk = read_trunk_spec(store, cell.trunk)
        splits = ("train",) if isinstance(cell, RefitCell) else ("train", "val")
        self.labels = {split: torch.tensor(views.images.split(split).labels) for split in splits}
        self._store, self._views, self._kept = store, views, kept
        self._wanted = wanted or Wanted()
        self._refit_setting = cell.setting if isinstance(cell, RefitCell) else None
        self._net = NetPasses(
            cell,
            self.trunk,
            store,
            views,
            self.labels,
            batch_size=images_at_once or cell.batch_size,
        )
        self.names, self.device = self._net.names, self._net.device
        self.trained_classifier = self._net.trained_classifier

    def __enter__(self) -> CellPasses:
        return self

    def __exit__(self, *_: object) -> None:
        self._net.close()

    # --- logits of val ------------------------------------------------------------------------

    def trained_logits(self) -> torch.Tensor:
        """Compute val's logits by the trunk as trained, in the cell's transform."""
        return self.logits(self.val_features_as_trained, *self.trained_classifier)

    def sliding_window_logits(self) -> torch.Tensor:
        """Compute val's logits by the trunk as trained, with timm's test-time pooling."""
        return self._net.sliding_window_logits()

    def logits_of_head(self, model: Net) -> torch.Tensor:
        """Compute val's logits by another net's last batch norm and classifier."""
        features = self._net.val_features(model)
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
        return self._net.val_features(self._net_as_trained)

    @cached_property
    def statistics(self) -> NormStatistics:
        """The last batch norm's statistics over all train images in the cell's transform."""
        if self._kept is not None:
            return self._kept.statistics
        return self._net.train_statistics(features=self._wanted.features)

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
            features = self._net.val_features(self._adapted_net)
            self._write_features("val", "val", features)
        return features

    @cached_property
    def val_features_mirrored_as_trained(self) -> torch.Tensor:
        """:attr:`val_features_mirrored` under the statistics that the trunk was trained with."""
        mirrored = self._net.val_features(self._net_as_trained, mirrored=True)
        return (self.val_features_as_trained + mirrored) / 2

    @cached_property
    def val_features_mirrored(self) -> torch.Tensor:
        """The mean of :attr:`val_features` and those of val's images mirrored.

        A classifier is linear: of the mean of two features it makes the mean of their logits.
        """
        mirrored = self._net.val_features(self._adapted_net, mirrored=True)
        return (self.val_features + mirrored) / 2

    @cached_property
    def train_features(self) -> Features:
        """Train's features under the re-estimated statistics, written to the store too.

        They are float16, and in parts, where train is streamed.
        """
        if self._net.is_streamed("train"):
            return self._streamed_features(self._net.train_stream)
        kept = self._kept_features("train", "train")
        if kept is not None:
            return kept
        features = self._net.train_features(self._adapted_net)
        self._write_features("train", "train", features)
        return features

    def mild_features(self) -> list[Features]:
        """Run a pass over each mildly augmented view of train, under the re-estimated statistics.

        Returns:
            Features of each view, which are written to the store too.
        """
        return [self._mild_features(number) for number in range(self.cell.views)]

    def _mild_features(self, number: int) -> Features:
        """Give the features of one view: each is read once a cell, and its pixels are not kept."""
        name = f"train-mild-{number}"
        view = self._views.mild_view(
            "train",
            self.cell.transform,
            number=number,
            hflip=self.trunk.recipe.augmentation.hflip,
            seed=self.cell.seed,
        )
        if self._net.is_streamed("train"):
            return self._streamed_features(self._net.stream(name, view))
        features = self._kept_features(name, "train")
        if features is None:
            features = self._net.features_of_view(self._adapted_net, view)
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
        self, views: list[Features], grid: HeadGrid, *, mirrored: bool = False
    ) -> FittedHead:
        """Train classifiers, from the trunk's own, on features of train; keep the best on val.

        In a refit: train one, with the setting of the cell. Where memory runs out on a GPU, the
        features stay on the host; where it runs out still, fewer classifiers are trained at once.

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
        settings = len(grid.settings)
        if self.device.type != "cpu":
            # Neither they nor an error, whose trace has them, are bound to a name: memory is freed.
            with suppress(torch.OutOfMemoryError), running_out_told():
                return self._fit_head([v.to(self.device) for v in views], val, grid, settings)
            free_cache(self.device)
        memory_fit = MemoryFit(self.device, minimum=1, error=_NO_ROOM_FOR_FEATURES)
        return memory_fit.run(lambda n: self._fit_head(views, val, grid, n), settings)

    def _fit_head(
        self, views: Sequence[Features], val: torch.Tensor | None, grid: HeadGrid, at_once: int
    ) -> FittedHead:
        """Do the work of :meth:`fit_head`, on so many settings at once."""
        train = views, self.labels["train"].to(self.device)
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
        model = self._net.fresh_model()
        set_norm(model, self.statistics)
        maps = self._net.train_maps
        train = maps, self.labels["train"][: len(maps.tensor)]
        grid, seed = self.cell.heads, self.cell.seed
        if self._refit_setting is not None:
            setting = self._refit_setting
            fit_affine_setting(model, train, setting, grid, seed=seed, device=self.device)
            return FittedAffine(model, setting, 0)
        head, val = self.fix_head, (self._net.val_maps, self.labels["val"])
        assert head.cross_fit is not None, "val has picked the setting"
        pick = fit_affine(
            model,
            train,
            val,
            head.setting,
            grid,
            half_settings=head.cross_fit.picked,
            seed=seed,
            batch_size=self._net.batch_size,
            device=self.device,
        )
        return FittedAffine(model, pick.setting, head.tried + pick.tried, pick.cross_fit)

    def frechet_classifier(self, images: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Fold the map of :mod:`.frechet` into the trunk's classifier: weight and bias.

        Args:
            images: of train, at most, that laws are fitted to at either resolution.
        """
        if self._wanted.train and self._kept is None and not self._net.is_streamed("train"):
            new = self._net.train_features(self._net_as_trained, most=images)
        else:
            new = self._sampled_features(self.cell.transform, images)
        old_law, new_law = frechet.fit_laws(
            self._trained_quantiles(images), frechet.quantiles(new.numpy())
        )
        return frechet.fold(frechet.map_between(old_law, new_law), *self.trained_classifier)

    # --- what is kept in the store ------------------------------------------------------------

    def _streamed_features(self, stream: TrainStream) -> FeatureParts:
        kept = None if self._kept is None else stream.shards.within(self._kept.folder).read()
        return stream.features(self.statistics) if kept is None else kept

    def forget_progress(self) -> None:
        """Delete what only a pass that is cut off would need, once the cell's results are there."""
        if self._net.is_streamed("train"):
            self._net.train_stream.shards.end()

    def _kept_features(self, name: str, split: str) -> torch.Tensor | None:
        return None if self._kept is None else self._kept.read(name, self.labels[split])

    def _write_features(self, name: str, split: str, features: torch.Tensor) -> None:
        path = self._store.cell(self.cell.key) / f"{name}.arrow"
        write_features(path, features, self.labels[split].numpy())

    def _sampled_features(self, transform: EvalTransform, images: int) -> torch.Tensor:
        """Run a pass over the first images of train, under the statistics of the trunk."""
        view = self._views.train_view(transform, most=images)
        return self._net.features_of_view(self._net_as_trained, view)

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

    @property
    def _net_as_trained(self) -> Net:
        return self._net.model_with(self._net.trained_norm)

    @property
    def _adapted_net(self) -> Net:
        """The net with its last batch norm's statistics re-estimated."""
        return self._net.model_with(self.statistics)


def _quantiles_from_json(value: list[float]) -> np.ndarray:
    """Read quantiles; raises anything for what is no list of so many numbers."""
    values = np.array(value, dtype=float)
    if values.shape != frechet.PROBABILITIES.shape:
        raise ValueError("they are no quantiles")
    return values
