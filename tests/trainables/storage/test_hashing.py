from __future__ import annotations

import math
from dataclasses import dataclass, make_dataclass
from pathlib import Path

import pytest

from trainables.fixres.cell import CellSpec
from trainables.fixres.head_settings import HeadGrid
from trainables.models.weights import Weights
from trainables.storage.hashing import added_later, canonical_json, content_hash, to_jsonable
from trainables.training.recipe import Hyper, Recipe
from trainables.training.trunk import TrunkSpec
from trainables.transforms.eval_transform import EvalTransform


@dataclass(frozen=True, kw_only=True)
class Settings:
    lr: float
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True, kw_only=True)
class SettingsWithOption:
    """The same dataclass after an option has been added."""

    lr: float
    sizes: tuple[int, ...] = (1, 2)
    mixup: float = added_later(0.0)


def test_json_of_nested_values():
    value = {"path": Path("/a/b"), 3: (Settings(lr=0.1), [None, True])}
    assert to_jsonable(value) == {"path": "/a/b", "3": [{"lr": 0.1, "sizes": [1, 2]}, [None, True]]}


def test_the_canonical_text_does_not_depend_on_the_order_of_keys():
    assert canonical_json({"b": 1, "a": (2.5, "é")}) == canonical_json({"a": [2.5, "é"], "b": 1})
    assert " " not in canonical_json({"a": [1, 2], "b": {}})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_has_no_number_for_is_refused(value):
    with pytest.raises(ValueError, match="JSON"):
        content_hash(value)


def test_a_hash_sees_values_and_neither_their_order_nor_their_class():
    value = Settings(lr=0.1)
    for same in ({"lr": 0.1, "sizes": [1, 2]}, {"sizes": (1, 2), "lr": 0.1}):
        assert content_hash(value) == content_hash(same)
    assert len(content_hash(value)) == 16 and int(content_hash(value), 16) >= 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, 2), (2, 1)),
        (("ab", "c"), ("a", "bc")),
        (([1], [2]), ([1, 2],)),
        ((0.1,), (0.1000000001,)),
        ((None,), ("None",)),
        (({"a": 1},), ({"a": 2},)),
        (({"a": 1},), ({"b": 1},)),
        ((), ("",)),
    ],
)
def test_hashes_differ_where_values_do(one, other):
    assert content_hash(*one) != content_hash(*other)


def test_an_option_added_later_orphans_no_store():
    before, after = Settings(lr=0.1), SettingsWithOption(lr=0.1)
    assert content_hash("trunk", after) == content_hash("trunk", before)
    assert content_hash({"in": [after]}) == content_hash({"in": [before]})  # however deep
    assert content_hash(SettingsWithOption(lr=0.1, mixup=0.2)) != content_hash(before)
    assert to_jsonable(after)["mixup"] == 0.0  # files say it all the same


def test_fields_with_defaults_that_were_there_from_the_start_are_in_every_key():
    assert content_hash(Settings(lr=0.1)) != content_hash(make_dataclass("S", ["lr"])(0.1))


def test_keys_of_the_first_release():
    """What 0.1.0 has stored under these keys is found: they are never to change."""
    trunk = TrunkSpec(
        variant="b0",
        train_res=128,
        weights=Weights(variant="b0", source="none", digest="none", name=None),
        images="0" * 64,
        recipe=Recipe(epochs=6, batch_size=32),
        hyper=Hyper(lr=1e-3, weight_decay=1e-2, label_smoothing=0.1),
        seed=0,
    )
    cell = CellSpec(
        trunk=trunk.key,
        transform=EvalTransform(test_res=160, crop_pct=1.0, interpolation="bicubic"),
        arms=("none", "fix"),
        heads=HeadGrid(
            lr=(0.01, 0.1), label_smoothing=(0.0,), epochs=30, patience=5, batch_size=64
        ),
        views=2,
        batch_size=32,
        seed=0,
    )
    assert (trunk.key, cell.key) == ("918b5cc836f255d8", "5be3dd0897f17b8b")
