"""Tables of classes stay readable, worst first, whatever the number of classes."""

from __future__ import annotations

from dataclasses import replace

from sweeps.report.chosen_net.class_tables import (
    MAX_CLASSES,
    MAX_CONFUSIONS,
    calibration_table,
    class_table,
    confusion_table,
)
from sweeps.report.page import render_page
from tests.factories import predictions_of
from tests.sweeps.report.finished_sweep import PLAN, WILD, an_outcome, spent
from tests.sweeps.report.test_page import Parsed, words

NAMES = ("cat", "dog", WILD)
VAL, TEST = predictions_of("val", 60), predictions_of("test", 40)


def page(**changed):
    plan = replace(PLAN, classes=NAMES)
    outcome = an_outcome(predictions=[VAL, TEST], **changed)
    return render_page(plan, outcome, spent(), {}, [], {}, "run", latency="a device")


def test_every_class_has_its_numbers_and_intervals() -> None:
    table = class_table(VAL, NAMES)
    assert {line.cells[0] for line in table.lines} == set(NAMES)
    (line,) = (line.cells for line in table.lines if line.cells[0] == "dog")
    images, said = (VAL.labels == 1).sum(), (VAL.predicted == 1).sum()
    hits = ((VAL.labels == 1) & (VAL.predicted == 1)).sum()
    shares = [f"{100 * part:.1f}" for part in (hits / images, hits / said)]
    assert (line[1], line[2], line[4], line[5]) == (f"{images}", shares[0], f"{said}", shares[1])
    assert line[7] == f"{200 * hits / (images + said):.1f}"
    f1 = [float(line.cells[7]) for line in table.lines]
    assert f1 == sorted(f1)


def test_of_a_thousand_classes_the_worst_and_the_most_frequent_confusions_are_shown() -> None:
    many = predictions_of("val", 3000, classes=1000, sharpness=2.0)
    names = [f"class {i}" for i in range(1000)]
    assert len(class_table(many, names).lines) == MAX_CLASSES
    confused = confusion_table(many, names)
    assert confused is not None and len(confused.lines) == MAX_CONFUSIONS


def test_a_net_without_mistakes_has_no_confusions() -> None:
    assert confusion_table(replace(VAL, labels=VAL.predicted), NAMES) is None


def test_the_page_has_both_splits_with_their_n_test_first() -> None:
    text = words(page())
    assert text.index("On test (n = 40); balanced accuracy") < text.index("On val (n = 60)")
    assert "Most frequent confusions on test" in text
    assert page().count("<b>") == 0 and WILD in Parsed(page()).text


def test_the_page_says_how_sure_the_net_is() -> None:
    outcome = an_outcome(predictions=[VAL, TEST])
    assert outcome.calibration is not None
    text = words(page())
    assert f"softmax(logits / {outcome.temperature:.3f})" in text
    table = calibration_table(outcome.calibration)
    assert [line.cells[:2] for line in table.lines] == [("val", "60"), ("test", "40")]
    assert table.lines[1].cells[2] == f"{outcome.calibration.scores[1].nll:.3f}"
    assert "before the refit" in words(page(refit=True)) and "before the refit" not in text
