"""A plan of a spec and its images: what it counts and prices, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from timm.data import ImageNetInfo

from sweeps.planning.building import build_plan
from sweeps.planning.options.words import option
from tests.factories import is_one_sentence, spec_with, weights_of
from trainables.errors import UserError
from trainables.profiling.cost import cost


def images(train: int = 120, val: int = 50, test: int = 40, classes: int = 10) -> Any:
    counts = {"train": train, "val": val, "test": test}

    class Split:
        def __init__(self, name: str):
            self.sizes = np.full((counts[name], 2), 100)
            self.labels = np.arange(counts[name]) % classes

        def __len__(self) -> int:
            return len(self.sizes)

    names = tuple(map(str, range(classes)))
    return SimpleNamespace(
        digest="d1",
        classes=names,
        split=Split,
        layout="class folders",
        whites={},
        splits_in_words="",
    )


def test_a_plan_counts_and_prices_what_the_grid_asks_for() -> None:
    spec = spec_with(variants=("lite0",), train_res=(32,), test_res=(32, 64))
    plan = build_plan(spec, images(classes=4), weights_of(spec))
    assert plan.counts == {"train": 120, "val": 50, "test": 40}
    assert set(plan.costs) == {("lite0", 32), ("lite0", 64)}
    assert plan.costs["lite0", 64] == cost("lite0", 64, classes=4)
    assert plan.images_digest == "d1" and len(plan.classes) == 4


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_params_m": 1.0}, "--max-params-m 1.0"),
        ({"max_gmacs": 0.001}, "--max-gmacs 0.001"),
        ({"max_memory_mb": 5.0, "max_gmacs": 9.0}, "--max-memory-mb 5.0"),
    ],
)
def test_limits_that_rule_out_everything_are_refused(options: dict[str, Any], named: str) -> None:
    spec = spec_with(variants=("lite0",), train_res=(32,), test_res=(32, 64), **options)
    with pytest.raises(UserError, match=f"^{named} rules out every cell.*lite0 at 32 px"):
        build_plan(spec, images(), weights_of(spec))


@pytest.mark.parametrize(
    "names", [("max_params_m", "max_gmacs"), ("max_params_m", "max_gmacs", "max_memory_mb")]
)
def test_limits_that_rule_out_everything_together_are_all_named(names: tuple[str, ...]) -> None:
    """Lite3 has fewer parameters, B2 fewer multiply-adds."""
    spec = spec_with(variants=("lite3", "b2"), train_res=(64,), test_res=(64,))
    light, quick = cost("lite3", 64, classes=10), cost("b2", 64, classes=10)
    assert light.params_m < quick.params_m and quick.gmacs < light.gmacs
    limits = {
        "max_params_m": light.params_m,
        "max_gmacs": quick.gmacs,
        "max_memory_mb": max(light.memory_mb, quick.memory_mb),
    }
    options = {name: limits[name] for name in names}
    with pytest.raises(UserError) as refusal:
        build_plan(spec_with(spec, **options, min_top1=0.5), images(), weights_of(spec))
    named = " and ".join(f"{option(name)} {limit}" for name, limit in options.items())
    assert str(refusal.value).startswith(f"{named} together rule out every cell: ")
    assert is_one_sentence(str(refusal.value))


@pytest.mark.parametrize("classes", [None, 1000])
def test_an_untrained_net_must_have_the_classes(classes: int | None) -> None:
    spec = spec_with(variants=("lite0",), train_res=(32,), test_res=(32,), epochs=0)
    weights = [replace(w, classes=classes) for w in weights_of(spec)]
    with pytest.raises(UserError, match=r"^--epochs 0 keeps the classifier of lite0's weights"):
        build_plan(spec, images(classes=10), weights)
    build_plan(spec, images(classes=10), [replace(w, classes=10) for w in weights])


def test_weights_without_a_classifier_are_for_nets_that_are_trained() -> None:
    spec = spec_with(variants=("lite0",), train_res=(32,), test_res=(32,), epochs=0)
    weights = [
        replace(w, source="file lite0.pth", name="n", digest="d", classes=0)
        for w in weights_of(spec)
    ]
    with pytest.raises(UserError, match=r"lite0's weights \(file lite0.pth\), and they have none"):
        build_plan(spec, images(classes=10), weights)
    plan = build_plan(spec_with(spec, epochs=1), images(classes=10), weights)
    assert [trunk.weights for trunk in plan.untouched()] == weights


def test_a_thousand_own_classes_are_not_taken_for_imagenets() -> None:
    spec = spec_with(variants=("lite0",), train_res=(32,), test_res=(32,), epochs=1)
    hub, own = (
        [replace(w, source=source, name="n", digest="d", classes=1000) for w in weights_of(spec)]
        for source in ("hub timm/lite0", "file lite0.pth")
    )
    pictures = images(classes=1000)
    names = tuple(ImageNetInfo().label_names())
    imagenet: Any = SimpleNamespace(**{**vars(pictures), "classes": names})
    for found, weights, kept in (
        (pictures, hub, False),
        (pictures, own, True),
        (imagenet, hub, True),
        (images(classes=10), hub, True),
    ):
        plan = build_plan(spec, found, weights)
        assert plan.weights["lite0"].keep_classifier == kept
        assert (plan.weights["lite0"] == weights[0]) == kept
    untrained = spec_with(spec, epochs=0)
    with pytest.raises(
        UserError, match=r"of ImageNet's 1000 .* \(the first is 0\): name"
    ) as caught:
        build_plan(untrained, pictures, hub)
    assert is_one_sentence(str(caught.value))
    build_plan(untrained, imagenet, hub)
    build_plan(untrained, pictures, own)


def test_the_plan_counts_each_class_over_all_splits() -> None:
    spec = spec_with(variants=("lite0",), train_res=(32,), test_res=(32,))
    plan = build_plan(spec, images(train=7, val=3, test=2, classes=3), weights_of(spec))
    assert plan.class_sizes == (5, 4, 3) and plan.layout == "class folders"
    assert plan.train_class_sizes == (3, 2, 2)


def test_limits_that_leave_something_are_taken() -> None:
    least = cost("lite0", 32, classes=10)
    spec = spec_with(
        variants=("lite0",),
        train_res=(64,),
        test_res=(32, 64),
        max_gmacs=least.gmacs,
        max_params_m=least.params_m,
        max_memory_mb=least.memory_mb,
    )
    assert build_plan(spec, images(), weights_of(spec)).cells == 4
