"""Pass over train once where its maps are too many to be kept, and go on from the last shard.

Images lie in an order that mixes them at random. So the first of them, the *prefix*, are a sample,
and the statistics of the last batch norm over a sample are close to those over all images:

1. The net's body runs over the prefix (:mod:`.backbone`); its maps are kept, as of a set that is no
   larger. Their statistics are taken, and then their features under these. The maps are dropped.
2. Every further shard runs through the whole net once, under the statistics of all images before
   it, which grow better with each. No map is kept.
3. Moments of what the last norm is linear in are summed all along (:mod:`.input_moments`): in the
   end they give the statistics over all images, as exactly as a pass of its own would.
4. The features of each shard are corrected for the difference, to first order
   (:mod:`.first_order`). What the norm is given are the exact statistics in any case.

Of a net that mixes channels between that norm and its pooling, or has no statistics, no features
are made before all is known: they take a pass of their own.

Each shard is written when it is made, and so are the moments: a pass that was cut off goes on from
there, and comes to the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from trainables.data.view_cache import StreamedView
from trainables.errors import SweepError
from trainables.evaluation.inference import batches_of
from trainables.fixres.feature_parts import FeatureParts
from trainables.fixres.features import NormStatistics, body_pass, current_statistics, set_norm
from trainables.fixres.streaming.feature_shards import FeatureShards, RawShard
from trainables.fixres.streaming.first_order import FeatureSlopes, corrected, feature_slopes
from trainables.fixres.streaming.input_moments import InputMoments
from trainables.models import backbone
from trainables.models.backbone import Net
from trainables.models.parts.dividing import parts_of
from trainables.models.variants import Preprocessing


@dataclass(frozen=True, kw_only=True)
class TrainStream:
    """The passes of a frozen net over one view of train."""

    model: Net  # in evaluation mode, on the device; its last batch norm is set as passes need it
    body: Net  # of the model, as :func:`.backbone.frozen_body` gives it
    view: StreamedView | np.ndarray
    shards: FeatureShards
    preprocessing: Preprocessing
    batch_size: int
    device: torch.device
    scratch: Path  # folder for the maps of the prefix

    def statistics(self, *, features: bool) -> NormStatistics:
        """Estimate the last batch norm's statistics over all images, in one pass.

        Args:
            features: whether :meth:`features` will be asked for: the pass makes them too.
        """
        parts = parts_of(self.model)
        if not parts.names.has_statistics:
            return current_statistics(self.model)
        features = features and not parts.mixes_channels
        found = self.shards.read_moments(self.device)
        moments, done = (None, 0) if found is None else found
        if features and done == 0:
            moments, done = self._prefix_pass()
            self.shards.write_moments(moments, done)
        for number in range(done, len(self.shards.ends)):
            moments = self._shard_pass(number, moments, features=features)
            self.shards.write_moments(moments, number + 1)
        assert moments is not None, "an empty split"
        return moments.statistics(self.model)

    def features(self, statistics: NormStatistics) -> FeatureParts:
        """Give the features of all images under the statistics: (N, F) float16, as shards are read.

        What :meth:`statistics` has made is corrected; what is not there is made, in another pass.
        All is written, shard by shard.
        """
        known: dict[int, np.ndarray] = {}
        for number in range(len(self.shards.ends)):
            shard = self.shards.read_shard(number)
            if shard is None:
                shard = self.shards.write(number, self._made_shard(number, statistics))
            if shard is not None:
                known[number] = shard
        # Files are mapped when all are written: what is small and stays, among what is large and
        # goes, has the allocator keep as much memory as all features take.
        found = self.shards.read(known)
        if found is None:
            raise SweepError(
                f"Features written to {self.shards.folder} cannot be read back: is its disk "
                "sound? The same command makes them again."
            )
        return found

    @torch.no_grad()
    def _made_shard(self, number: int, statistics: NormStatistics) -> torch.Tensor:
        """Correct a shard's features, or make them: (n, F) float16 on the CPU."""
        raw = self.shards.read_raw(number)
        if raw is None:
            return self._features_under(statistics, number)
        pooled = corrected(raw.found, self.model, raw.statistics, statistics)
        return backbone.neck(self.model, pooled.to(self.device)).half().cpu()

    @torch.no_grad()
    def _prefix_pass(self) -> tuple[InputMoments, int]:
        """Take the statistics of the prefix, and its features under them."""
        spans = [span for span in self.shards.spans if span[1] <= self.shards.prefix]
        with body_pass(
            self.body,
            self._part(0, spans[-1][1]),
            self.preprocessing,
            batch_size=self.batch_size,
            device=self.device,
            scratch=self.scratch,
        ) as maps:
            moments: InputMoments | None = None
            for batch in torch.split(maps.tensor, self.batch_size):
                on_device = batch.to(self.device)
                moments = self._counted(moments, on_device)
            assert moments is not None
            statistics = moments.statistics(self.model)
            set_norm(self.model, statistics)
            for number, (start, end) in enumerate(spans):
                gathered = _Gathered(end - start)
                for batch in torch.split(maps.tensor[start:end], self.batch_size):
                    z = backbone.pre_norm(self.model, batch.to(self.device))
                    gathered.add(feature_slopes(self.model, z))
                raw = RawShard(found=gathered.slopes(), statistics=statistics)
                self.shards.write_raw(number, raw)
        return moments, len(spans)

    @torch.no_grad()
    def _shard_pass(
        self, number: int, moments: InputMoments | None, *, features: bool
    ) -> InputMoments:
        """Count a shard's images, and make its features under the statistics of those before."""
        start, end = self.shards.spans[number]
        gathered, statistics = _Gathered(end - start), None
        if features:
            assert moments is not None
            statistics = moments.statistics(self.model)
            set_norm(self.model, statistics)
        for maps in self._maps_of(start, end):
            moments = self._counted(moments, maps)
            if features:
                gathered.add(feature_slopes(self.model, backbone.pre_norm(self.model, maps)))
        assert moments is not None
        if statistics is not None:
            raw = RawShard(found=gathered.slopes(), statistics=statistics)
            self.shards.write_raw(number, raw)
        return moments

    @torch.no_grad()
    def _features_under(self, statistics: NormStatistics, number: int) -> torch.Tensor:
        """Run the whole net over a shard, under these statistics."""
        set_norm(self.model, statistics)
        parts = [
            backbone.head_input(self.model, backbone.pre_norm(self.model, maps)).half().cpu()
            for maps in self._maps_of(*self.shards.spans[number])
        ]
        return torch.cat(parts)

    def _counted(self, moments: InputMoments | None, maps: torch.Tensor) -> InputMoments:
        """Count what of some maps leads to the norm."""
        given = backbone.norm_input(self.model, maps)
        moments = moments or InputMoments.about(given)
        moments.add(given)
        return moments

    def _maps_of(self, start: int, end: int) -> Iterator[torch.Tensor]:
        part = self._part(start, end)
        for x in batches_of(part, self.batch_size, self.preprocessing, self.device):
            yield backbone.body(self.body, x)

    def _part(self, start: int, end: int) -> StreamedView | np.ndarray:
        if isinstance(self.view, StreamedView):
            return self.view.part(start, end)
        return self.view[start:end]


class _Gathered:
    """Features and their slopes of the images of a shard, batch by batch, in half precision."""

    def __init__(self, count: int):
        self._count, self._filled = count, 0
        self._parts: dict[str, torch.Tensor] = {}

    def add(self, batch: FeatureSlopes) -> None:
        filled = self._filled + len(batch.features)
        for name, values in vars(batch).items():
            if name not in self._parts:
                shape = self._count, values.shape[1]
                self._parts[name] = torch.empty(shape, dtype=torch.float16)
            self._parts[name][self._filled : filled] = values.cpu()
        self._filled = filled

    def slopes(self) -> FeatureSlopes:
        assert self._filled == self._count
        return FeatureSlopes(**self._parts)
