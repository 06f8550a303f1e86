"""A whole cell of all arms whose train is streamed, beside one that keeps all maps."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.adapted import TRAIN, VAL, VIEWS, count_images, watched
from trainables.fixres.adapt import adapt_cell
from trainables.fixres.arms import ARMS
from trainables.fixres.cell import CellSpec, read_delta, recorded_results, recorded_spec
from trainables.fixres.reuse.kept_arms import take_from_others
from trainables.fixres.streaming import feature_shards
from trainables.fixres.streaming.feature_shards import FeatureShards
from trainables.models.parts.tensor_names import EFFICIENTNET, STATISTICS
from trainables.storage.artifact_store import Store

PREFIX, SHARD = 12, 6  # of 22 train and 15 val images


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_shards, "SHARD_IMAGES", SHARD)


@pytest.fixture
def store(made: Any, tmp_path: Path) -> Store[Path]:
    """A store with the trunk and no cell."""
    shutil.copytree(made.store.root / "trunks", tmp_path / "store" / "trunks")
    return Store(tmp_path / "store")


def streamed(made: Any, **more: Any) -> CellSpec:
    return replace(made.cell, prefix=PREFIX, **more)


def test_a_cell_that_keeps_all_maps_has_the_key_of_before(made: Any) -> None:
    keys = {replace(made.cell, prefix=prefix).key for prefix in (None, 5, 6)}
    assert len(keys) == 3 and made.cell.key == replace(made.cell, prefix=None).key


def test_a_prefix_of_all_images_is_the_cell_of_kept_maps(made: Any, store: Store[Path]) -> None:
    cell = replace(made.cell, prefix=TRAIN)
    _, logits, _ = watched(cell, store, made.views)
    assert all(torch.equal(logits[arm], made.logits[arm]) for arm in ARMS)


def test_a_streamed_cell_comes_near_the_one_of_kept_maps(made: Any, store: Store[Path]) -> None:
    """Statistics are exact. Classifiers that were fitted on corrected features differ a little."""
    cell = streamed(made)
    results, logits, seen = watched(cell, store, made.views)
    assert [r.arm for r in results] == list(ARMS)
    for name in EFFICIENTNET.of(STATISTICS):
        found, wanted = (
            read_delta(s, c.key, "bn")[name] for s, c in ((store, cell), (made.store, made.cell))
        )
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    for arm in ("none", "pool", "bn", "frechet", "none_flip"):
        torch.testing.assert_close(logits[arm], made.logits[arm], rtol=1e-4, atol=1e-4)
    for arm in ("fix", "fix_aug", "fix_flip"):
        moved = (logits[arm] - made.logits[arm]).norm() / made.logits[arm].norm()
        assert moved < 0.1
    # Train once, each mild view once, the sample of frechet at both resolutions; the prefix once
    # more for fix_affine. Val, of which more maps would be kept than are allowed, by norm; mirrored
    # by two of them.
    train = (1 + VIEWS + 2) * TRAIN + PREFIX
    assert sum(seen) == train + (4 + 2) * VAL
    assert recorded_spec(store, cell.key) == cell


def test_a_streamed_cell_leaves_shards_and_nothing_that_it_was_made_of(
    made: Any, store: Store[Path]
) -> None:
    cell, views = streamed(made, arms=("none", "fix", "fix_aug")), made.views
    before = set(views.cache.rglob("*.npy"))
    adapt_cell(cell, store, views)
    folder: Any = store.cell(cell.key)
    shards = range(len(feature_shards.shard_ends(TRAIN, PREFIX)))
    wanted = {f"{view}-{n:05d}.arrow" for n in shards for view in (
        "train", *(f"train-mild-{v}" for v in range(VIEWS)))}  # fmt: skip
    found = {path.name for path in folder.iterdir()}
    assert {name for name in found if name.startswith("train")} == wanted
    assert set(views.cache.rglob("*.npy")) == before, "train's pixels are not kept"
    assert not list(views.cache.rglob("*.tmp"))


@pytest.mark.parametrize("at", [1, 3, 6, 9, 14])
def test_a_cell_that_is_killed_goes_on_and_comes_to_the_same(
    made: Any, store: Store[Path], at: int, tmp_path: Path
) -> None:
    cell = streamed(made, arms=("none", "bn", "fix", "fix_aug"))
    whole = Store(tmp_path / "whole")
    shutil.copytree(store.root, whole.root)
    with pytest.MonkeyPatch.context() as patch:
        seen = count_images(patch)
        adapt_cell(cell, whole, made.views)
    images, calls = sum(seen), 0

    class Killed(BaseException):
        pass

    def counted(plain: Any) -> Any:
        def write(*given: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                raise Killed
            return plain(*given)

        return write

    with pytest.MonkeyPatch.context() as patch:
        for name in ("write", "write_raw"):
            patch.setattr(FeatureShards, name, counted(getattr(FeatureShards, name)))
        with pytest.raises(Killed):
            adapt_cell(cell, store, made.views)
    with pytest.MonkeyPatch.context() as patch:
        seen = count_images(patch)
        adapt_cell(cell, store, made.views)
    assert sum(seen) <= images
    one, other = (contents(s, cell) for s in (store, whole))
    assert one == other


def test_a_cell_that_was_killed_and_takes_its_arm_then_leaves_no_raw_shard(
    made: Any, store: Store[Path]
) -> None:
    """Another cell has worked the arm out in between, so that no features are asked for."""
    cell = streamed(made, arms=("none", "fix"), views=made.cell.views + 1)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureShards, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            adapt_cell(cell, store, made.views)
    folder: Any = store.cell(cell.key)
    assert list(folder.glob("*.raw.safetensors"))
    adapt_cell(replace(cell, arms=("fix",)), store, made.views)
    take_from_others(store, [cell])
    adapt_cell(cell, store, made.views)
    assert not [*folder.glob("*.raw.safetensors"), *folder.glob("*.moments.safetensors")]


def contents(store: Store[Path], cell: CellSpec) -> dict[str, bytes]:
    folder: Any = store.cell(cell.key)
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "rows.json"}


def test_another_cell_takes_the_shards_that_there_are(made: Any, store: Store[Path]) -> None:
    first = streamed(made, arms=("none", "fix"))
    adapt_cell(first, store, made.views)
    heads = replace(first.heads, lr=(0.02, 0.3))
    other = replace(first, heads=heads)
    take_from_others(store, [other])
    with pytest.MonkeyPatch.context() as patch:
        seen = count_images(patch)
        adapt_cell(other, store, made.views)
    assert seen == []
    kept_whole = replace(other, prefix=None)
    take_from_others(store, [kept_whole])
    with pytest.MonkeyPatch.context() as patch:
        seen = count_images(patch)
        adapt_cell(kept_whole, store, made.views)
    assert sum(seen) == TRAIN + VAL, "corrected features are not taken for exact ones"
    assert recorded_results(store, kept_whole.key)
