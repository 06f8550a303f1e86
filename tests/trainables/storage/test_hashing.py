"""Digests of values: what the keys of the store are made of."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from trainables.storage.hashing import content_hash


@dataclass(frozen=True)
class Inner:
    sizes: tuple[int, ...]
    folder: Path


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner


def test_digest_sees_values_and_neither_their_order_nor_their_class():
    value = Outer("b0", Inner((224, 320), Path("x/y")))
    ordered = {"name": "b0", "inner": {"sizes": [224, 320], "folder": "x/y"}}
    reversed_ = {"inner": {"folder": "x/y", "sizes": [224, 320]}, "name": "b0"}
    assert content_hash(value) == content_hash(ordered) == content_hash(reversed_)
    assert len(content_hash(value)) == 16
    assert set(content_hash(value)) <= set("0123456789abcdef")


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
    ],
)
def test_digests_differ_where_values_do(one, other):
    assert content_hash(*one) != content_hash(*other)


def test_a_number_that_json_lacks_has_no_digest():
    with pytest.raises(ValueError, match="JSON"):
        content_hash(float("nan"))
