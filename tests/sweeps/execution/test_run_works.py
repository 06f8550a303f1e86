"""Readings in trials of a real Ray give what this process reads, to the last bit."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeps.execution import tune_runner
from sweeps.execution.phases import failed_in_words, run_works
from sweeps.execution.resources import ClusterResources, MemoryNeed, PhaseResources, Placement
from sweeps.planning.options.groups import ResourceOptions
from trainables.data.image_set import ImageSet
from trainables.data.options import ReadOptions
from trainables.data.view_cache import ViewCache
from trainables.fixres.adapt import adapt_cell
from trainables.fixres.cell import CellSpec
from trainables.fixres.head_settings import HeadGrid
from trainables.fixres.held_out_score import (
    Reading,
    held_out_predictions,
    held_out_test,
    recorded_on,
    recorded_on_val,
    score_reading,
)
from trainables.models import variants
from trainables.models.weights import find_weights
from trainables.ray_backend.tune_trainables import ReadingWork, TrialContext
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_lines
from trainables.training.recipe import Hyper, Recipe
from trainables.training.trunk import TrunkSpec
from trainables.training.untouched import write_untouched
from trainables.transforms.eval_transform import EvalTransform

ARMS = ("bn", "none")
ONE_CORE = ClusterResources(cores=1, gpus=0, gpus_per_node=0, gpu=None, memory_gb=16, cluster=False)


@dataclass
class Adapted:
    """A store with a cell, and what its trials are given."""

    store: Store[Path]
    cell: CellSpec
    views: ViewCache
    context: TrialContext

    def reading(self, name: str, **more: Any) -> Reading:
        return Reading(cell=self.cell, arms=ARMS, name=name, **more)


@pytest.fixture
def adapted(tiny_images: ImageSet, lite0_weights: Path, tmp_path: Path) -> Adapted:
    store, cache = Store(tmp_path / "store"), tiny_images.root.parent
    trunk = TrunkSpec(
        variant="lite0",
        train_res=0,
        weights=find_weights(variants.get("lite0"), str(lite0_weights), store),
        images=tiny_images.digest,
        recipe=Recipe(epochs=0, batch_size=4),
        hyper=Hyper(lr=0.0, weight_decay=0.0, label_smoothing=0.0),
        seed=0,
    )
    write_untouched(trunk, len(tiny_images.classes), store)
    cell = CellSpec(
        trunk=trunk.key,
        transform=EvalTransform(test_res=32, crop_pct=1.0, interpolation="bicubic"),
        arms=("none", "bn"),
        heads=HeadGrid(lr=(0.1,), label_smoothing=(0.0,), epochs=1, patience=1, batch_size=8),
        views=0,
        batch_size=8,
        seed=0,
    )
    views = ViewCache(images=tiny_images, cache=cache, threads=1)
    adapt_cell(cell, store, views)
    context = TrialContext(
        store=store.root, data=tmp_path / "nowhere", images_digest=tiny_images.digest,
        read=ReadOptions(), cache=cache,
    )  # fmt: skip
    return Adapted(store, cell, views, context)


@pytest.mark.slow
@pytest.mark.usefixtures("real_ray")
def test_a_reading_in_a_trial_is_that_of_this_process(
    adapted: Adapted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune_runner, "MAX_FAILURES_WITHOUT_PROGRESS", 0)
    here = Store(tmp_path / "here")
    shutil.copytree(adapted.store.root, here.root)
    readings = [adapted.reading("test"), adapted.reading("val")]
    for reading in readings:
        score_reading(reading, here, adapted.views, ReadOptions())
    lost = adapted.reading("lost", data=tmp_path / "lost", digest="d")
    net = ("lite0", 32)
    resources = PhaseResources(
        placement=Placement(options=ResourceOptions(), cluster_resources=ONE_CORE),
        needs={net: MemoryNeed(gb=lambda _: 0.1, max_workers=1)},
        unshared=True,
    )
    told: list[dict[str, Any]] = []

    def take(result: dict[str, Any]) -> bool:
        told.append(result)
        return False

    works = [(net, ReadingWork(reading=reading)) for reading in (*readings, lost)]
    *traces, trace = run_works(works, resources, adapted.context, take)
    assert traces == [None, None] and len(told) == 2
    assert trace is not None
    words = failed_in_words(trace, adapted.store.cell(adapted.cell.key))
    assert "lost" in words and words.startswith("failed: ") and "\n" not in words
    assert (adapted.store.cell(adapted.cell.key) / "error.txt").read_text() == trace
    images, key = adapted.views.images, (adapted.cell, ARMS)
    test = held_out_test(images)
    for store in (adapted.store, here):
        assert set(recorded_on(test, store, *key)) == set(ARMS)
    for arm in ARMS:
        found, wanted = (
            held_out_predictions(test, store, adapted.cell, arm) for store in (adapted.store, here)
        )
        assert found.logits is not None and wanted.logits is not None
        assert np.array_equal(found.logits, wanted.logits)
        found_val, wanted_val = (
            recorded_on_val(images.digest, store, *key)[arm].score
            for store in (adapted.store, here)
        )
        assert found_val == wanted_val
    looks = [(line["set"], line["arm"]) for line in read_lines(adapted.store.readings)]
    assert looks == [("test", arm) for arm in ARMS]
