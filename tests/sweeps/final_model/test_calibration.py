"""The temperature is fitted on val alone, and told with what it does on test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from sweeps.final_model.calibration import calibrate, calibration_line, temperature_in_words
from tests.factories import predictions_of
from trainables.evaluation.calibration import fit_temperature, reliability

VAL, TEST = predictions_of("val", 300), predictions_of("test", 200)


def test_val_gives_the_temperature_and_both_splits_are_scored() -> None:
    found = calibrate([VAL, TEST], refit=False)
    assert found is not None and VAL.logits is not None and TEST.logits is not None
    assert found.temperature == fit_temperature(VAL.logits, VAL.labels)
    assert found.temperature == pytest.approx(3.0, rel=0.3)  # what labels were drawn with
    assert [(s.split, s.n) for s in found.scores] == [("val", 300), ("test", 200)]
    test = found.scores[1]
    exact, labels = torch.tensor(TEST.logits).double(), torch.tensor(TEST.labels)
    assert test.nll == pytest.approx(cross_entropy(exact, labels).item())
    assert test.scaled_nll == pytest.approx(cross_entropy(exact / found.divisor, labels).item())
    assert test.scaled_ece == reliability(TEST.logits, TEST.labels, found.divisor).ece
    assert test.scaled_nll < test.nll and test.scaled_ece < test.ece
    assert found.metrics["temperature"] == found.temperature
    assert (found.metrics["test/nll"], found.metrics["val/ece_scaled"]) == (
        test.nll,
        found.scores[0].scaled_ece,
    )


def test_test_has_no_say_in_the_temperature() -> None:
    other = replace(TEST, labels=TEST.labels[::-1])
    first, second = (calibrate([VAL, test], refit=False) for test in (TEST, other))
    assert first is not None and second is not None
    assert first.temperature == second.temperature and first.scores[0] == second.scores[0]
    assert first.scores[1] != second.scores[1]


def test_where_val_has_no_image_wrong_probabilities_stay_and_the_card_says_so() -> None:
    found = calibrate([replace(VAL, labels=VAL.predicted), TEST], refit=False)
    assert found is not None and found.temperature is None and found.divisor == 1.0
    assert all(s.nll == s.scaled_nll and s.ece == s.scaled_ece for s in found.scores)
    assert temperature_in_words(found).startswith("No temperature was fitted: cross-entropy on val")
    assert "->" not in calibration_line(found)


@pytest.mark.parametrize("without", [0, 1])
def test_without_logits_nothing_is_said(without: int) -> None:
    given = [VAL, TEST]
    given[without] = replace(given[without], logits=None)
    assert calibrate(given, refit=False) is None
    assert "kept no logits" in temperature_in_words(None)


def test_a_refitted_net_has_the_temperature_of_the_one_before_and_says_so() -> None:
    found, before = calibrate([VAL, TEST], refit=True), calibrate([VAL, TEST], refit=False)
    assert found is not None and before is not None
    assert found.temperature == before.temperature
    assert "net before the refit" in temperature_in_words(found)
    assert "refit" not in temperature_in_words(before)


def test_the_line_has_numbers_with_split_and_n() -> None:
    found = calibrate([VAL, TEST], refit=False)
    assert found is not None
    test = found.scores[1]
    assert calibration_line(found) == (
        f"temperature {found.temperature:.3f}; on test (n=200) cross-entropy {test.nll:.3f} -> "
        f"{test.scaled_nll:.3f}, calibration error {100 * test.ece:.1f} -> "
        f"{100 * test.scaled_ece:.1f} points"
    )


def test_labels_may_be_of_many_classes() -> None:
    many = predictions_of("val", 500, classes=1000, sharpness=1.5)
    found = calibrate([many, replace(many, split="test")], refit=False)
    assert found is not None and np.isfinite(found.scores[0].scaled_nll)
