"""What is said of classifiers that are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sweeps.planning import kept_classifiers
from sweeps.planning.kept_classifiers import kept_classifier_lines
from sweeps.planning.plan import Plan
from tests.factories import plan_of, spec_with
from trainables.models.weights import Weights
from trainables.storage.artifact_store import Store

CLASSES = ("0", "1", "10", "2")
LABELS = np.arange(80) % 4


class Val:
    labels = LABELS

    def __len__(self) -> int:
        return len(LABELS)


def plan(**weights: Any) -> Plan:
    made = plan_of(spec_with(variants=("b0",), train_res=(64, 96), test_res=(96,), epochs=0))
    given: dict[str, Any] = {
        "variant": "b0",
        "source": "file b0.pth",
        "digest": "d",
        "name": "n",
        "classes": 4,
    }
    return replace(made, classes=CLASSES, weights={"b0": Weights(**(given | weights))})


def lines(monkeypatch: pytest.MonkeyPatch, plan: Plan, predicted: np.ndarray) -> list[str]:
    images: Any = SimpleNamespace(split=lambda name: Val())
    monkeypatch.setattr(kept_classifiers, "predictions_of", lambda *_: predicted)
    return list(kept_classifier_lines(plan, images, Store(Path("/none"))))


@pytest.mark.parametrize(
    ("meaning", "told"),
    [
        ([0, 1, 2, 3], None),
        ([0, 1, 3, 2], "50.0 % of val right (n = 80) in this order of the classes, and 100.0 % in "
                       "natural order: stop, and give --class-order natural"),
        ([1, 2, 3, 0], "100.0 % in another: give the order of its outputs as --class-order FILE"),
        ([0, 0, 0, 0], "25.0 % of val right (n = 80), no more than chance: it may be of other"),
    ],
)  # fmt: skip
def test_an_order_that_fits_better_is_told(
    monkeypatch: pytest.MonkeyPatch, meaning: list[int], told: str | None
) -> None:
    said = lines(monkeypatch, plan(), np.array(meaning)[LABELS])
    assert len(said) == (told is not None)
    if told is not None:
        assert said[0].startswith("labels   the classifier of b0's weights has") and told in said[0]


def test_classifiers_that_are_not_kept_or_known_by_name_are_not_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = (LABELS + 1) % 4
    assert not lines(monkeypatch, plan(classes=1000), wrong)
    assert not lines(monkeypatch, plan(source="hub timm/b0"), wrong)
    assert not lines(monkeypatch, plan(source="none", classes=None, name=None), wrong)
    (line,) = lines(monkeypatch, plan(source="hub timm/b0", keep_classifier=False), wrong)
    assert "b0 starts without the classifier of its weights, which is of ImageNet's" in line
    (line,) = lines(monkeypatch, plan(classes=0), wrong)
    assert line == "labels   b0 starts without a classifier: its weights (file b0.pth) have none"
