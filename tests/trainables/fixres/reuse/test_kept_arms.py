"""A cell of other arms or settings takes what the store has, and comes out as one made alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import pytest

from tests.trainables.adapted import TRAIN, VAL, VIEWS, count_images
from trainables.fixres.adapt import adapt_cell
from trainables.fixres.arms import ARMS
from trainables.fixres.cell import CellSpec, recorded_results
from trainables.fixres.held_out_score import HeldOutSet, cells_tested_on, score_held_out
from trainables.fixres.reuse.kept_arms import KEPT, find_kept, origin, read_kept, take_from_others
from trainables.storage.artifact_store import Store

ALL = tuple(ARMS)


@pytest.fixture
def before(made: Any, tmp_path: Any) -> Any:
    """A store with one finished cell, of all arms or of some."""

    def of_arms(*arms: str) -> tuple[Store, CellSpec]:
        store = Store(tmp_path / "store")
        shutil.copytree(made.store.root, store.root)
        shutil.rmtree(store.cells)
        spec = replace(made.cell, arms=arms)
        adapt_cell(spec, store, made.views)
        return store, spec

    return of_arms


def alone(made: Any, spec: CellSpec, tmp_path: Any) -> dict[str, bytes]:
    store = Store(tmp_path / "alone")
    shutil.copytree(made.store.root, store.root)
    shutil.rmtree(store.cells)
    adapt_cell(spec, store, made.views)
    return files(store, spec)


def files(store: Store, spec: CellSpec) -> dict[str, bytes]:
    """What a cell leaves, without clocks, features, and where it was taken from."""
    folder: Any = store.cell(spec.key)
    left_out = ("rows.json", KEPT, "train.arrow", "val.arrow")
    found = {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in left_out}
    return {n: content for n, content in found.items() if not n.startswith("train-mild")}


def results(store: Store, spec: CellSpec) -> list[Any]:
    return [replace(r, seconds=0.0) for r in recorded_results(store, spec.key) or ()]


def images_seen(spec: CellSpec, store: Store, views: Any) -> int:
    with pytest.MonkeyPatch.context() as patch:
        seen = count_images(patch)
        take_from_others(store, [spec])
        if recorded_results(store, spec.key) is None:
            adapt_cell(spec, store, views)
    return sum(seen)


@pytest.mark.parametrize(
    ("first", "then", "images"),
    [
        (ALL, ("none", "fix"), 0),  # fewer: a view
        (("fix", "none"), ("none", "fix"), 0),  # the same, typed otherwise
        (("none",), ("none", "pool"), VAL),
        (("none", "bn"), ("none", "bn", "fix"), TRAIN),  # val's features are there
        (("none", "fix"), ("none", "bn", "fix"), 0),
        (("none", "fix"), ("none", "fix", "fix_aug"), VIEWS * TRAIN),
        (("none", "fix"), ("none", "fix", "fix_affine"), TRAIN + VAL),
    ],
)
def test_other_arms_cost_only_the_passes_that_nothing_is_left_of(
    made: Any, before: Any, tmp_path: Any, first: Any, then: Any, images: int
) -> None:
    store, _ = before(*first)
    spec = replace(made.cell, arms=then)
    assert images_seen(spec, store, made.views) == images
    assert files(store, spec) == alone(made, spec, tmp_path)
    assert {r.arm for r in results(store, spec)} == set(then)


def test_other_settings_of_the_classifier_need_no_image(
    made: Any, before: Any, tmp_path: Any
) -> None:
    store, first = before("none", "bn", "fix", "fix_aug")
    heads = replace(first.heads, lr=(0.02, 0.1, 0.3))
    spec = replace(first, heads=heads)
    assert images_seen(spec, store, made.views) == 0
    assert files(store, spec) == alone(made, spec, tmp_path)
    assert set(read_kept(store, spec.key).arms) == {"none", "bn"}
    fewer = replace(first, heads=replace(heads, lr=(0.3,)))  # a third one, from the first two
    assert images_seen(fewer, store, made.views) == 0
    shutil.rmtree(tmp_path / "alone")
    assert files(store, fewer) == alone(made, fewer, tmp_path)


@pytest.mark.parametrize(
    "other", [{"seed": 6}, {"batch_size": 3}, {"none_in_transform": True}, {"views": 1}]
)
def test_nothing_is_taken_from_what_would_come_out_otherwise(
    made: Any, before: Any, other: dict[str, Any]
) -> None:
    store, first = before("none", "fix_aug")
    spec = replace(first, arms=("none", "fix_aug"), **other)
    kept = find_kept(store, [spec]).kept
    arms = set(kept[spec.key].arms) if kept else set()
    expected = {"views": {"none"}, "none_in_transform": {"fix_aug"}}
    assert arms == expected.get(next(iter(other)), set())


@pytest.mark.parametrize("name", ["rows.json", "predictions.arrow", "delta-bn.safetensors",
                                  "logits-none.arrow", "train.arrow", "spec.json"])  # fmt: skip
@pytest.mark.parametrize("damage", ["halved", "gone"])
def test_what_is_damaged_or_gone_is_made_again(
    made: Any, before: Any, tmp_path: Any, name: str, damage: str
) -> None:
    store, first = before("none", "bn", "fix")
    path: Any = store.cell(first.key) / name
    content = path.read_bytes()
    path.unlink() if damage == "gone" else path.write_bytes(content[: len(content) // 2])
    spec = replace(first, arms=("none", "bn", "fix"), heads=replace(first.heads, lr=(0.1,)))
    images_seen(spec, store, made.views)
    assert files(store, spec) == alone(made, spec, tmp_path)
    kept = read_kept(store, spec.key).arms
    assert not any(name.startswith((f"delta-{a}.", f"logits-{a}.")) for a in kept)


@pytest.mark.parametrize("name", ["delta-bn.safetensors", "logits-none.arrow"])
def test_arms_of_which_files_are_gone_are_named(made: Any, before: Any, name: str) -> None:
    store, first = before("none", "bn")
    path: Any = store.cell(first.key) / name
    path.unlink()
    spec = replace(first, arms=("none", "bn", "fix"))
    found = find_kept(store, [spec])
    gone = name.partition(".")[0].partition("-")[2]
    assert found.lacking == {spec.key: (gone,)}
    assert set(found.kept[spec.key].arms) == {"none", "bn"} - {gone}
    assert find_kept(store, [first]).lacking == {}  # it is damaged: what needs its file says so


def test_a_net_that_was_taken_is_not_read_on_test_again(made: Any, before: Any) -> None:
    store, first = before("none", "fix")
    images = made.views.images
    test = HeldOutSet(name="taken", images=images.split("test"), digest="d", present=(0, 1, 2))
    read = score_held_out(test, store, first, first.arms, made.views)
    spec = replace(first, arms=("none", "bn", "fix"))
    images_seen(spec, store, made.views)
    assert {origin(store, spec.key, a) for a in ("none", "fix")} == {first.key}
    assert origin(store, spec.key, "bn") == spec.key
    with pytest.MonkeyPatch.context() as patch:
        seen = count_images(patch)
        again = score_held_out(test, store, spec, first.arms, made.views)
    assert again == read and not seen
    assert cells_tested_on(store, "taken") == [first.key]
