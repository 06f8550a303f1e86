"""What the chosen net does class by class: records, worst first, and the files that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweeps.output.location import CLASSES, CONFUSIONS
from trainables.evaluation.class_metrics import confusions, count_by_class
from trainables.evaluation.confidence import wilson
from trainables.fixres.predictions import Predictions
from trainables.storage.files import write_file


@dataclass(frozen=True, kw_only=True)
class ClassResult:
    """One class on one split. Shares are None where there is nothing to take a share of."""

    split: str
    name: str
    images: int
    """Those of the class."""
    predicted: int
    """Those that are said to be of it."""
    hits: int
    """Those that are both."""

    @property
    def recall(self) -> float | None:
        """Share of the class's images that are found."""
        return self.hits / self.images if self.images else None

    @property
    def precision(self) -> float | None:
        """Share of what is said to be of the class that is."""
        return self.hits / self.predicted if self.predicted else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of both; 0 where nothing is said to be of the class."""
        return 2 * self.hits / (self.images + self.predicted) if self.images else None

    @property
    def recall_interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the recall (Wilson)."""
        return wilson(self.hits, self.images) if self.images else None

    @property
    def precision_interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the precision (Wilson)."""
        return wilson(self.hits, self.predicted) if self.predicted else None


def class_results(predictions: Predictions, classes: Sequence[str]) -> list[ClassResult]:
    """List the classes of a split, the worst F1 first, of equal ones the larger, then in order.

    Classes without images come last.
    """
    counts = count_by_class(predictions.labels, predictions.predicted, len(classes))
    results = [
        ClassResult(
            split=predictions.split,
            name=name,
            images=int(counts.images[i]),
            predicted=int(counts.predicted[i]),
            hits=int(counts.hits[i]),
        )
        for i, name in enumerate(classes)
    ]
    return sorted(results, key=lambda r: (r.f1 is None, r.f1 or 0.0, -r.images))


def write_class_results(
    out: Path, predictions: Sequence[Predictions], classes: Sequence[str]
) -> None:
    """Write ``per_class.parquet``, all classes by split, and ``confusions.parquet``, all pairs."""
    by_class = [_record(r) for p in predictions for r in class_results(p, classes)]
    pairs = [
        {
            "split": p.split,
            "class": classes[found.label],
            "predicted": classes[found.predicted],
            "images": found.images,
        }
        for p in predictions
        for found in confusions(p.labels, p.predicted)
    ]
    _write(out / CLASSES, by_class, _CLASS_SCHEMA)
    _write(out / CONFUSIONS, pairs, _PAIR_SCHEMA)


def _record(result: ClassResult) -> dict[str, Any]:
    record = asdict(result)
    record["class"] = record.pop("name")
    for name in ("recall", "precision"):
        interval = getattr(result, f"{name}_interval")
        low, high = interval if interval else (None, None)
        record |= {name: getattr(result, name), f"{name}_low": low, f"{name}_high": high}
    return record | {"f1": result.f1}


_CLASS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("split", "class")),
        *((name, pa.int64()) for name in ("images", "predicted", "hits")),
        *(
            (f"{name}{end}", pa.float64())
            for name in ("recall", "precision")
            for end in ("", "_low", "_high")
        ),
        ("f1", pa.float64()),
    ]
)
_PAIR_SCHEMA = pa.schema(
    [*((name, pa.string()) for name in ("split", "class", "predicted")), ("images", pa.int64())]
)


def _write(path: Path, records: list[dict[str, Any]], schema: pa.Schema) -> None:
    table = pa.Table.from_pylist(records, schema=schema)
    write_file(path, lambda temporary: pq.write_table(table, temporary))
