"""Ready-made specs."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.planning.checks.validation import check_spec
from sweeps.planning.published import PUBLISHED
from sweeps.planning.recipes import RECIPES, builtin_digits
from sweeps.planning.spec import SweepSpec
from tests.factories import spec_with


@pytest.mark.parametrize("spec", [SweepSpec(), builtin_digits()])
def test_what_comes_ready_made_can_be_run(spec: SweepSpec) -> None:
    assert check_spec(spec) is spec


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_can_be_run_where_there_are_images(recipe: str, tmp_path: Path) -> None:
    spec = spec_with(RECIPES[recipe](), data=str(tmp_path))
    assert check_spec(spec).grid.recipe == recipe


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_takes_the_published_nets_as_they_are_and_says_its_name(recipe: str) -> None:
    spec = RECIPES[recipe]()
    assert spec.grid.recipe == recipe
    assert spec.trunks.epochs == 0 and spec.grid.variants == tuple(PUBLISHED)
    assert (spec.grid.train_res, spec.grid.test_res) == ("native", "published")
    # A part of train picks: where the data has train and val, val is read once, as test.
    assert spec.read.pick_share == spec.images.pick_share == 0.02
    assert SweepSpec().read.pick_share is None
