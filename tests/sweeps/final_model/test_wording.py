"""Sentences that model card, report and terminal share."""

from __future__ import annotations

from sweeps.final_model.outcome import PairedGain
from sweeps.final_model.wording import gain_in_words, optimism_in_words, reading_sentence
from sweeps.selection.choice import Choice
from tests.factories import a_row


def test_a_repeated_reading_of_test_is_said() -> None:
    assert reading_sentence(1) == "Read once, after the choice."
    repeated = reading_sentence(3)
    assert repeated.startswith("Not the first reading: ") and "for 3 cells" in repeated


def test_optimism_is_in_points_and_never_negative() -> None:
    row = a_row()
    for optimism, points in ((0.0123, "1.2 points"), (-0.01, "0.0 points")):
        choice = Choice(row=row, reason="It is the best.", optimism=optimism)
        assert optimism_in_words(choice).endswith(points)


def test_a_gain_has_its_sign_and_its_standard_error() -> None:
    words = gain_in_words(PairedGain(difference=-0.021, error=0.0049))
    assert words == "-2.1 points on the untuned trunk (paired, standard error 0.5)"
    assert gain_in_words(PairedGain(difference=0.021, error=0.0)).startswith("+2.1 points")
