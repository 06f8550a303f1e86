"""Fit a temperature on val, and measure what it does to the probabilities on val and test. Pure.

It divides the logits before the softmax, in the MLflow model alone: the other forms give logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainables.evaluation.calibration import (
    IMAGES_PER_BIN,
    MAX_BINS,
    fit_temperature,
    reliability,
)
from trainables.fixres.predictions import Predictions

ECE_IN_WORDS = (
    f"The calibration error (ECE) is the mean gap between confidence and share of right ones, over "
    f"bins of equally many images: at most {MAX_BINS}, of at least {IMAGES_PER_BIN} images each."
)


@dataclass(frozen=True, kw_only=True)
class CalibrationScore:
    """How well probabilities fit the labels of a split, by logits as they are and scaled."""

    split: str
    n: int
    nll: float
    """Mean cross-entropy, nats."""
    ece: float
    """Expected calibration error, a share."""
    scaled_nll: float
    scaled_ece: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The temperature of the served model's probabilities, and what it does."""

    temperature: float | None
    """None: val has no least cross-entropy, as where it has no image wrong."""
    refit: bool
    """Whether the served model was trained on val too, after the temperature was fitted there."""
    scores: tuple[CalibrationScore, ...]
    """Of val, on which the temperature was fitted, and of test."""

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers by names as a tracker has them: "test/ece", "test/ece_scaled" ..."""
        named = {"temperature": self.divisor}
        for s in self.scores:
            named |= {f"{s.split}/nll": s.nll, f"{s.split}/nll_scaled": s.scaled_nll}
            named |= {f"{s.split}/ece": s.ece, f"{s.split}/ece_scaled": s.scaled_ece}
        return named

    @property
    def divisor(self) -> float:
        """What the logits are divided by: 1 where there is no temperature."""
        return 1.0 if self.temperature is None else self.temperature


def calibrate(predictions: Sequence[Predictions], *, refit: bool) -> Calibration | None:
    """Fit the temperature on val; None where logits were not kept.

    A refitted net has no val: it gets the temperature of the net before, which was trained in the
    same way on fewer images.

    Args:
        predictions: of the chosen row on val, and of the served model on test.
        refit: whether the two are different nets.
    """
    kept = {p.split: (p.logits, p.labels) for p in predictions if p.logits is not None}
    if len(kept) < len(predictions) or "val" not in kept:
        return None
    temperature = fit_temperature(*kept["val"])
    scores = []
    for split, (logits, labels) in kept.items():
        plain, scaled = (reliability(logits, labels, t) for t in (1.0, temperature or 1.0))
        scores.append(
            CalibrationScore(
                split=split,
                n=plain.n,
                nll=plain.nll,
                ece=plain.ece,
                scaled_nll=scaled.nll,
                scaled_ece=scaled.ece,
            )
        )
    return Calibration(temperature=temperature, refit=refit, scores=tuple(scores))


def temperature_in_words(calibration: Calibration | None) -> str:
    """Say where the temperature of the probabilities comes from, in sentences."""
    if calibration is None:
        return "No temperature was fitted: a version that kept no logits made this sweep's cells."
    val = calibration.scores[0]
    if calibration.temperature is None:
        return (
            f"No temperature was fitted: cross-entropy on val (n = {val.n}) has its least at none "
            "between 0.05 and 20, as where no image is wrong. Probabilities are softmax(logits)."
        )
    words = (
        f"Probabilities are softmax(logits / {calibration.temperature:.3f}): the temperature with "
        f"the least cross-entropy on val (n = {val.n}), which chose the net too."
    )
    if calibration.refit:
        words += (
            " It is that of the net before the refit, as nothing of val is left to fit one on: only"
            " test tells whether it fits this one."
        )
    return words


def calibration_line(calibration: Calibration) -> str:
    """Say in a line what the temperature does on test."""
    test = calibration.scores[-1]
    after = f" -> {test.scaled_nll:.3f}" if calibration.temperature else ""
    after_ece = f" -> {100 * test.scaled_ece:.1f}" if calibration.temperature else ""
    return (
        f"temperature {calibration.divisor:.3f}; on {test.split} (n={test.n}) cross-entropy "
        f"{test.nll:.3f}{after}, calibration error {100 * test.ece:.1f}{after_ece} points"
    )
