"""The learning rates that are searched where none are given."""

from __future__ import annotations

from typing import Any

import pytest

from sweeps.planning.checks.search_checks import check_search, with_settled_search
from sweeps.planning.options.space import PLAIN_LR
from sweeps.planning.recipes import builtin_digits
from sweeps.planning.search import FEW_STEPS_LR, FROZEN_NORMS_LR, with_learning_rates
from sweeps.planning.spec import SweepSpec
from tests.factories import spec_with
from trainables.errors import UserError

EITHER = {"choices": [True, False]}
FEW = {"epochs": 5, "batch_size": 32, "variants": ("lite0",)}  # with 320 images, 50 steps


def lr_of(images: int = 320, **options: Any) -> Any:
    return with_learning_rates(spec_with(SweepSpec(), **FEW | options), images).trunks.lr


def test_they_suit_steps_and_batch_norms() -> None:
    assert lr_of() == lr_of(1_311) == FEW_STEPS_LR  # 40 whole batches an epoch
    assert lr_of(1_312) == PLAIN_LR  # 41
    assert lr_of(batch_size=4) == lr_of(epochs=100) == PLAIN_LR
    assert lr_of(freeze_batch_norm=True) == FROZEN_NORMS_LR


@pytest.mark.parametrize(
    "options",
    [
        {"weights": "none"},
        {"optimizer": "sgd"},
        {"epochs": 0},
        {"variants": ("timm:convnext_atto",)},  # it has no batch norms
        {"space": {"freeze_batch_norm": EITHER}},
    ],
)
def test_where_it_is_not_known_what_suits_they_are_the_usual_ones(options: Any) -> None:
    assert lr_of(**options) == PLAIN_LR


def test_what_is_given_stays() -> None:
    given = spec_with(SweepSpec(), **FEW, lr=(0.1, 0.2))
    assert with_learning_rates(given, 320) == given
    entry = {"lr": {"choices": [0.1, 0.2]}}
    spec = with_learning_rates(spec_with(SweepSpec(), **FEW, space=entry), 320)
    assert spec.search.space == entry


def test_settled_once_they_stay() -> None:
    settled = with_learning_rates(spec_with(SweepSpec(), **FEW), 320)
    assert with_learning_rates(settled, 100_000) == settled


def test_the_built_in_sweep_is_one_of_few_steps() -> None:
    assert with_learning_rates(builtin_digits(), 800).trunks.lr == FEW_STEPS_LR
    frozen = spec_with(builtin_digits(), freeze_batch_norm=True)
    assert with_learning_rates(frozen, 800).trunks.lr == FROZEN_NORMS_LR


def test_points_to_try_are_checked_once_the_rates_are_known() -> None:
    spec = spec_with(SweepSpec(), **FEW, try_=({"lr": 5e-4},))
    check_search(spec)
    assert with_settled_search(spec, 100_000).trunks.lr == PLAIN_LR
    with pytest.raises(UserError, match=r"lr 0\.0005, which is not in 0\.001 to 0\.004"):
        with_settled_search(spec, 320)
