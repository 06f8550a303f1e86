"""Make the report's tables of the chosen net: class by class, confusions, calibration."""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.final_model.calibration import Calibration
from sweeps.final_model.class_results import ClassResult, class_results
from sweeps.report.tables import Column, Table, TableRow, percent
from trainables.evaluation.class_metrics import confusions
from trainables.fixres.predictions import Predictions

MAX_CLASSES = 20
MAX_CONFUSIONS = 10


def class_table(predictions: Predictions, classes: Sequence[str]) -> Table:
    """Make the table of the classes of a split: the worst 20 by F1, worst first."""
    results = [r for r in class_results(predictions, classes) if r.images]
    return Table(
        name=f"Class by class on {predictions.split}, the worst F1 first",
        columns=(
            Column(name="class", number=False),
            *(
                Column(name=name)
                for name in (
                    *("images", "recall %", "95 % interval", "said to be"),
                    *("precision %", "95 % interval", "F1 %"),
                )
            ),
        ),
        lines=tuple(TableRow(cells=_cells(result)) for result in results[:MAX_CLASSES]),
    )


def _cells(result: ClassResult) -> tuple[str, ...]:
    return (
        result.name,
        f"{result.images:,}",
        _share(result.recall),
        _interval(result.recall_interval),
        f"{result.predicted:,}",
        _share(result.precision),
        _interval(result.precision_interval),
        _share(result.f1),
    )


def _share(value: float | None) -> str:
    return "" if value is None else percent(value)


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{percent(ends[0])} to {percent(ends[1])}"


def confusion_table(predictions: Predictions, classes: Sequence[str]) -> Table | None:
    """Make the table of the 10 most frequent confusions of a split; None: there are none."""
    found = confusions(predictions.labels, predictions.predicted)[:MAX_CONFUSIONS]
    if not found:
        return None
    of_class = {c.label: int((predictions.labels == c.label).sum()) for c in found}
    return Table(
        name=f"Most frequent confusions on {predictions.split}",
        columns=(
            Column(name="images of", number=False),
            Column(name="taken for", number=False),
            Column(name="images"),
            Column(name="of"),
        ),
        lines=tuple(
            TableRow(
                cells=(
                    classes[c.label],
                    classes[c.predicted],
                    f"{c.images:,}",
                    f"{of_class[c.label]:,}",
                )
            )
            for c in found
        ),
    )


def calibration_table(calibration: Calibration) -> Table:
    """Make the table of what the temperature does to the probabilities."""
    names = (
        *("n", "cross-entropy (nats)", "scaled"),
        *("calibration error (points)", "scaled"),
    )
    return Table(
        name="Calibration before and after the temperature",
        columns=(Column(name="split", number=False), *(Column(name=name) for name in names)),
        lines=tuple(
            TableRow(
                cells=(
                    score.split,
                    f"{score.n:,}",
                    f"{score.nll:.3f}",
                    f"{score.scaled_nll:.3f}",
                    percent(score.ece),
                    percent(score.scaled_ece),
                )
            )
            for score in calibration.scores
        ),
    )
