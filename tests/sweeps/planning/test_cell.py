"""A cell tells what it is made of."""

from __future__ import annotations

import pytest

from sweeps.planning.cell import crop_in_words
from tests.factories import HYPER, plan_of, spec_with


def test_a_cell_has_its_trunks_variant_and_its_specs_resolution_and_key() -> None:
    plan = plan_of(spec_with(variants=("b1",), train_res=(64,), test_res=(96,)))
    trunk = plan.trunk(plan.points[0], HYPER)
    cell = plan.cell(trunk, 3, 96, 0.9)
    assert (cell.variant, cell.test_res, cell.crop_pct, cell.trunk_epochs) == ("b1", 96, 0.9, 3)
    assert cell.label == "b1 64 -> 96 px, crop 0.9"
    assert cell.key == cell.spec.key and cell.spec.trunk == trunk.key


def test_the_cell_of_a_repeat_names_it_and_draws_by_its_seed() -> None:
    plan = plan_of(spec_with(variants=("b1",), train_res=(64,), test_res=(96,)))
    first, repeat = (plan.trunk(plan.points[0], HYPER, repeat=number) for number in (0, 2))
    one, other = (plan.cell(trunk, 3, 96, 0.9) for trunk in (first, repeat))
    assert other.label == f"{one.label}, repeat 2"
    assert (one.spec.seed, other.spec.seed) == (plan.spec.run.seed, repeat.training_seed)


def test_a_cell_of_a_set_whose_maps_are_too_many_streams_and_another_has_its_key_of_before() -> (
    None
):
    spec = spec_with(variants=("b0",), train_res=(64,), test_res=(96, 128))
    small = spec_with(spec, map_gb=0.01)  # 868 images at 96 px, 488 at 128 px
    for given, train, prefixes in (
        (spec, 700, (None, None)),
        (small, 700, (None, 488)),
        (small, 869, (868, 488)),
    ):
        plan = plan_of(given, train=train)
        trunk = plan.trunk(plan.points[0], HYPER)
        cells = [plan.cell(trunk, 3, res, 1.0).spec for res in (96, 128)]
        assert tuple(cell.prefix for cell in cells) == prefixes
        keys = [plan_of(spec, train=train).cell(trunk, 3, r, 1.0).key for r in (96, 128)]
        equal = [cell.key == key for cell, key in zip(cells, keys, strict=True)]
        assert equal == [prefix is None for prefix in prefixes]


@pytest.mark.parametrize(
    ("crop", "words"), [(1.0, "1.0"), (0.875, "0.875"), (0.9, "0.9"), (224 / 256, "0.875")]
)
def test_a_crop_ratio_has_the_decimals_that_it_needs(crop: float, words: str) -> None:
    assert crop_in_words(crop) == words
