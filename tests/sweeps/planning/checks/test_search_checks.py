"""What is searched, and the other options: what does not go together."""

from __future__ import annotations

from typing import Any

import pytest

from sweeps.planning.checks.search_checks import check_search
from sweeps.planning.checks.validation import check_spec
from tests.factories import is_one_sentence, spec_with
from trainables.errors import UserError

WEIGHTS = {"class_weights": {"choices": ["none", "balanced"]}}
CROPS = {"crop_scale": {"choices": [[0.08, 1.0], [0.25, 1.0]]}}


@pytest.mark.parametrize(
    "options",
    [
        {"space": {"optimizer": {"choices": ["sgd", "adamw"]}}},
        {"space": WEIGHTS, "head_class_weights": ("none",)},
        {"space": CROPS},
        {"try_": ({"lr": 1e-3}, {"lr": 2e-3}), "samples": 2},
        {"try_": ({"optimizer": "adamw", "lr": 1e-3},)},  # as it is anyway
        {"try_": ({"variant": "b1", "train_res": 160},), "variants": ("b0", "b1")},
        {"try_": ({"train_res": 224},), "variants": ("b0",), "train_res": "native"},
        {"try_": ({"crop_scale": [0.08, 1.0]},), "space": CROPS},
        {"try_": tuple({"train_res": r, "lr": 1e-3} for r in (128, 160, 224)), "samples": 1},
    ],
)
def test_what_goes_together_is_taken(options: dict[str, Any]) -> None:
    check_spec(spec_with(**options))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"space": WEIGHTS}, "--head-class-weights none"),
        (
            {"space": WEIGHTS, "sampling": "balanced", "head_class_weights": ("none",)},
            "balanced would count rare classes twice: give one of them",
        ),
        ({"space": CROPS, "test_res": "auto"}, "--test-res auto follows from one --crop-scale"),
        ({"space": CROPS, "test_crop_pct": ("auto",)}, "--test-crop-pct auto follows"),
        ({"space": CROPS, "epochs": 0, "data": "/"}, "--space is of how trunks are trained"),
        ({"try_": ({"lr": 1e-3},), "epochs": 0, "data": "/"}, "--try is of how trunks are"),
        (
            {"space": {"warmup_epochs": {"low": 0.0, "high": 30.0, "log": False}}},
            "--warmup-epochs 30.0 is more than --epochs 20",
        ),
        (
            {"space": {"batch_size": {"choices": [4, 64]}}, "workers_per_trial": 4},
            "--workers-per-trial 4 shares a --batch-size of 4",
        ),
        (
            {"try_": ({"lr": 1e-3}, {"lr": 0.1})},
            "--try: point 2 has lr 0.1, which is not in 0.0001",
        ),
        ({"try_": ({"optimizer": "sgd"},)}, "point 1 has optimizer sgd, and it is adamw for all"),
        (
            {"try_": ({"crop_scale": [0.5, 1.0]},), "space": CROPS},
            "point 1 has crop_scale 0.5-1, which is not in 0.08-1 or 0.25-1",
        ),
        ({"try_": ({"variant": "b7"},)}, "point 1 is bound to variant b7, which is no point"),
        ({"try_": ({"train_res": 100, "lr": 1e-3},)}, "bound to train_res 100"),
        (
            {"try_": ({"lr": 1e-3}, {"lr": 2e-3}, {"lr": 3e-3}), "samples": 2},
            "--try gives 3 points for b0 at 128, and --samples is 2: raise it to 3",
        ),
        (
            {"try_": ({"lr": 1e-3}, {"lr": 1e-3, "label_smoothing": 0.1})},
            "--try gives the same point twice for b0 at 128",
        ),
    ],
)
def test_what_does_not_is_refused_in_a_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as error:
        check_spec(spec_with(**options))
    assert words in str(error.value) and is_one_sentence(str(error.value))


def test_a_spec_without_either_is_not_looked_at_further() -> None:
    check_search(spec_with())
