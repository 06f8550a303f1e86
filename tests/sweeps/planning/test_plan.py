"""The plan: its trunks and cells, their costs, and what rules a plan out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from sweeps.planning.grid import Point, point_of
from sweeps.planning.recipes import RECIPES
from tests.factories import HYPER, plan_of, spec_with
from trainables.models import variants
from trainables.profiling.cost import cost
from trainables.training.recipe import Hyper
from trainables.training.trunk import trunk_spec_from_json
from trainables.transforms.eval_transform import EvalTransform

# --- costs ------------------------------------------------------------------------------------


def test_a_class_costs_its_row_of_the_classifier() -> None:
    few, many = cost("b0", 64, classes=10), cost("b0", 64, classes=110)
    assert many.params_m - few.params_m == pytest.approx(100 * (1280 + 1) / 1e6)
    assert many.gmacs - few.gmacs == pytest.approx(100 * 1280 / 1e9)
    assert many.memory_mb - few.memory_mb == pytest.approx(4 * (many.params_m - few.params_m))


# --- counts -----------------------------------------------------------------------------------

GRIDS: list[dict[str, Any]] = [
    {},
    {"variants": ("b0", "b1", "b3"), "samples": 1},
    {"train_res": (64,), "test_res": (64, 96, 128, 160, 192), "samples": 3, "survivors": 2},
    {"variants": ("b0", "l2"), "samples": 2, "survivors": 9},
]


@pytest.mark.parametrize("options", GRIDS)
def test_counts_are_those_of_nested_loops(options: dict[str, Any]) -> None:
    plan = plan_of(spec_with(**options))
    grid, samples, survivors = plan.spec.grid, plan.spec.search.samples, plan.spec.fix.survivors
    trunks, cells = [], []
    for v in grid.variants:
        for r in grid.train_res:
            for s in range(samples):
                trunks.append((v, r, s))
                if s < survivors:
                    cells += [(v, r, s, t, c) for t in grid.test_res for c in (0.875, 1.0)]
    assert plan.trunks == len(trunks) and plan.cells == len(cells)
    assert [(p.variant, p.train_res) for p in plan.points] == list(
        dict.fromkeys((v, r) for v, r, _ in trunks)
    )


def test_a_trunk_is_known_by_all_that_it_depends_on() -> None:
    spec = spec_with(variants=("b0", "b1"), train_res=(64, 96))
    plan = plan_of(spec)
    trunks = [plan.trunk(p, HYPER) for p in plan.points]
    assert [point_of(t) for t in trunks] == list(plan.points)
    changes: dict[str, Any] = {"epochs": 3, "seed": 4, "hflip": 0.0, "batch_size": 8}
    changes |= {"sampling": "balanced", "class_weights": "balanced"}
    others = [
        plan_of(spec_with(spec, **{name: value})).trunk(plan.points[0], HYPER)
        for name, value in changes.items()
    ]
    others.append(plan.trunk(plan.points[0], Hyper(lr=2e-3, weight_decay=0.01, label_smoothing=0)))
    keys = Counter(t.key for t in trunks + others)
    assert set(keys.values()) == {1}


def test_class_weights_are_not_in_the_key_of_a_trunk_that_is_not_trained() -> None:
    """They are those of its classifiers alone."""
    specs = [spec_with(epochs=0, data="/", class_weights=w) for w in ("none", "balanced")]
    trunks = [plan.trunk(plan.points[0], HYPER) for plan in map(plan_of, specs)]
    assert trunks[0].key == trunks[1].key


def test_a_trunk_does_not_depend_on_its_neighbours_in_the_grid() -> None:
    point = Point(variant="b0", train_res=64)
    small = plan_of(spec_with(train_res=(64,), test_res=(64,), samples=1))
    large = plan_of(spec_with(variants=("b0", "b1"), train_res=(64, 96), samples=5, out="x"))
    assert small.trunk(point, HYPER).key == large.trunk(point, HYPER).key


def test_a_trunk_comes_back_from_its_json() -> None:
    import json

    from trainables.storage.hashing import to_jsonable

    trunk = plan_of(spec_with()).trunk(Point(variant="b0", train_res=128), HYPER)
    back = trunk_spec_from_json(json.loads(json.dumps(to_jsonable(trunk))))
    assert back == trunk and back.key == trunk.key


def test_cells_of_a_trunk_differ_by_test_resolution_and_crop() -> None:
    plan = plan_of(spec_with())
    first, second = (plan.trunk(point, HYPER) for point in plan.points[:2])
    axes = ((first, 64, 1.0), (first, 96, 1.0), (second, 64, 1.0), (first, 64, 0.875))
    cells = [plan.cell(trunk, 2, res, crop) for trunk, res, crop in axes]
    assert len({cell.key for cell in cells}) == 4


def test_each_variant_is_a_point_untouched_at_every_resolution_and_crop() -> None:
    spec = spec_with(variants=("b0", "b4"), train_res=(64, 96), test_res=(64, 128), survivors=1)
    plan = plan_of(spec, weights=True)
    untouched = plan.untouched()
    assert [(t.variant, t.train_res, t.recipe.epochs) for t in untouched] == [
        ("b0", 224, 0), ("b4", 380, 0)
    ]  # fmt: skip
    assert plan.grid.untouched_cells("b0") == [(64, 0.875), (64, 1.0), (128, 0.875), (128, 1.0)]
    assert plan.cells == 2 * 2 * 2 * 2 + 2 * 4 and plan.cells_untouched == 8
    cell = plan.cell(untouched[0], 0, 64, 1.0)
    assert cell.spec.arms == ("fix",) and cell.label == "b0 untouched -> 64 px, crop 1.0"
    trained = plan.cell(plan.trunk(plan.points[0], HYPER), 6, 64, 1.0)
    assert trained.spec.arms == spec.fix.arms


@pytest.mark.parametrize(
    "options", [{"untouched": False}, {"weights": "none"}, {"epochs": 0, "data": "/"}]
)
def test_untouched_nets_can_be_left_out(options: dict[str, Any]) -> None:
    plan = plan_of(spec_with(**options), weights=True)
    assert plan.untouched() == [] and plan.cells_untouched == 0
    assert plan.cells == plan_of(spec_with(**options)).cells


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_of_papers_have_no_untouched_nets(recipe: str) -> None:
    assert not RECIPES[recipe]().grid.untouched


def test_an_untouched_net_is_the_same_whatever_trunks_are_trained_with() -> None:
    def key(**options: Any) -> str:
        return plan_of(spec_with(**options), weights=True).untouched_trunk("b0").key

    others = {"epochs": 3, "seed": 4, "hflip": 0.0, "batch_size": 8, "train_res": (96,)}
    others |= {"sampling": "balanced", "class_weights": "sqrt"}
    assert {key(**{name: value}) for name, value in others.items()} == {key()}


@pytest.mark.parametrize(
    ("arms", "crop", "is_found"),
    [
        (("bn", "fix"), 1.0, True),
        (("none", "fix"), 0.875, True),
        (("none", "fix"), 1.0, False),
    ],
)
def test_cells_of_earlier_versions_are_found_where_they_are_the_same(
    arms: tuple[str, ...], crop: float, is_found: bool
) -> None:
    """These tested the arm none at the weights' crop, 0.875, whatever that of the cell was."""
    plan = plan_of(spec_with(variants=("b0",), arms=arms))
    spec = plan.cell(plan.trunk(plan.points[0], HYPER), 2, 64, crop).spec
    assert (spec.key == replace(spec, none_in_transform=False).key) == is_found


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, ("none",)),
        ({"class_weights": "sqrt"}, ("sqrt",)),
        ({"sampling": "balanced"}, ("balanced",)),
        ({"sampling": "balanced", "head_class_weights": ("none",)}, ("none",)),
        ({"head_class_weights": ("none", "balanced")}, ("none", "balanced")),
        ({"class_weights": "sqrt", "head_class_weights": ("trunk", "sqrt")}, ("sqrt",)),
        ({"epochs": 0, "data": "/", "class_weights": "balanced"}, ("balanced",)),
    ],
)
def test_classifiers_weigh_classes_as_trunks_count_them_unless_told_otherwise(
    options: dict[str, Any], weights: tuple[str, ...]
) -> None:
    plan = plan_of(spec_with(**options))
    cell = plan.cell(plan.trunk(plan.points[0], HYPER), 2, 64, 1.0).spec
    assert plan.head_class_weights == cell.heads.class_weights == weights
    plain = plan_of(spec_with(), weights=True)
    untouched, balanced = plain.untouched_trunk("b0"), plan_of(spec_with(**options), weights=True)
    keys = {p.cell(untouched, 0, 64, 1.0).key for p in (plain, balanced)}
    assert len(keys) == (1 if weights == ("none",) else 2)


def test_how_far_a_trunk_was_trained_and_how_many_survive_is_not_in_a_cells_key() -> None:
    plan = plan_of(spec_with())
    first = plan.trunk(plan.points[0], HYPER)
    cells = [plan.cell(first, 2, 64, 1.0)]
    assert cells[0].key == plan_of(spec_with(survivors=3)).cell(first, 6, 64, 1.0).key


def test_a_cell_is_tested_as_its_weights_were_trained_by_default() -> None:
    own = plan_of(spec_with(variants=("lite3", "b0")))
    native = variants.preprocessing(variants.get("lite3")).crop_pct
    assert own.transform("lite3", 96) == EvalTransform(
        test_res=96, crop_pct=native, interpolation="bilinear"
    )
    assert own.transform("lite3", 96, 1.0).crop_pct == 1.0 != native
    assert own.transform("b0", 96).interpolation == "bicubic"
    other = plan_of(spec_with(test_crop_pct=(1.0, 0.6), interpolation="bilinear"))
    trunk = other.trunk(other.points[0], HYPER)
    # Rungs are at the crop of the weights, whatever cells there are.
    at_rungs = other.val_transforms(other.points[0])
    assert at_rungs[0] == other.cell(trunk, 6, 128, 0.875).spec.transform
    assert [t.test_res for t in at_rungs] == list(other.grid.tests[other.points[0]])
    assert {t.crop_pct for t in at_rungs} == {0.875}
    assert other.transform("b0", 128) == EvalTransform(
        test_res=128, crop_pct=0.875, interpolation="bilinear"
    )
