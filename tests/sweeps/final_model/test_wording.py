"""Sentences that model card, report and terminal share."""

from __future__ import annotations

from sweeps.final_model.outcome import PairedGain
from sweeps.final_model.wording import (
    flattered_rows_in_words,
    gains_in_words,
    optimism_in_words,
    reading_sentence,
    untouched_in_words,
    val_in_words,
)
from sweeps.selection.choice import Choice
from sweeps.selection.optimism import Expectation
from tests.factories import a_row, outcome_of
from trainables.evaluation.metrics import Score


def test_a_repeated_reading_of_test_is_said() -> None:
    assert reading_sentence(1) == "Read once, after the choice."
    repeated = reading_sentence(3)
    assert repeated.startswith("Not the first reading: ") and "for 3 cells" in repeated


def test_optimism_is_in_points_and_never_negative() -> None:
    row = a_row()
    for optimism, points in ((0.0123, "1.2 points"), (-0.01, "0.0 points")):
        choice = Choice(row=row, reason="It is the best.", optimism=optimism)
        assert optimism_in_words(choice).endswith(points)


def test_what_is_to_be_expected_is_said_with_its_interval() -> None:
    expected = Expectation(top1=0.58, low=0.44, high=0.7)
    choice = Choice(row=a_row(), reason="It is the best.", optimism=0.02, expected=expected)
    assert optimism_in_words(choice) == (
        "val picked classifier, row and trunk, which flatters its own top-1 (60.0 %, n=50) by "
        "about 2.0 points: 58.0 % is to be expected on new images (95 % interval 44.0 to 70.0)"
    )


def test_both_figures_of_val_are_said_what_decided_and_what_is_served() -> None:
    def score(hits: int) -> Score:
        return Score(split="val", n=50, hits1=hits, hits5=50)

    row = a_row(30, 50, crossfit_top1=0.56)
    outcome = outcome_of([row], val_as_served={"fix": score(31), "none": score(25)})
    assert val_in_words(outcome) == (
        "top-1 56.0 %, cross-fitted (n=50) decided, the classifier that is kept has 60.0 %; "
        "as served, in float32, 62.0 % (untuned 50.0 %)"
    )
    plain = a_row(30, 50, arm="none")
    outcome = outcome_of([plain], val_as_served={"none": score(30)})
    assert val_in_words(outcome) == ("top-1 60.0 % (n=50) decided; as served, in float32, 60.0 %")
    assert val_in_words(outcome_of([plain], refit=True)) == "top-1 60.0 % (n=50) decided"


def test_rows_of_former_versions_are_said_to_be_flattered() -> None:
    old, new = a_row(30), a_row(30, crossfit_top1=0.56)
    assert flattered_rows_in_words([new, a_row(arm="bn"), a_row(split="test")]) == ""
    assert flattered_rows_in_words([old, old, new]).startswith("2 of these rows are of a former")


def test_gains_are_said_by_set_with_their_signs_and_standard_errors() -> None:
    outcome = outcome_of(
        [a_row()],
        gains={"test": PairedGain(difference=-0.021, error=0.0049)},
        gains_on_untouched={
            "test": PairedGain(difference=0.3, error=0.02),
            "v2": PairedGain(difference=0.021, error=0.0),
        },
    )
    on_untouched = "+30.0 points on the untouched net (paired, standard error 2.0)"
    assert gains_in_words(outcome, "test") == (
        f"-2.1 points on the untuned trunk (paired, standard error 0.5), {on_untouched}"
    )
    assert gains_in_words(outcome, "v2").startswith("+2.1 points on the untouched net")
    assert gains_in_words(outcome, "v3") == ""


def test_it_is_said_which_untouched_row_the_choice_is_compared_with() -> None:
    untouched = [a_row(hits, untouched=True, test_res=res) for hits, res in ((10, 64), (12, 128))]
    rows, gains = [a_row(), *untouched], {"test": PairedGain(difference=0.1, error=0.01)}
    words = untouched_in_words(outcome_of(rows, gains_on_untouched=gains))
    assert "b0 untouched -> 128 px, crop 1.0, arm fix: it was read on these sets" in words
    assert untouched_in_words(outcome_of(rows)) == ""  # as of former versions
