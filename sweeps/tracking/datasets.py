"""Log which images a run used, and on which images a metric was measured."""

from __future__ import annotations

import json

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric

from sweeps.planning.plan import Plan
from sweeps.redaction import redacted
from sweeps.tracking.runs import RunStore


class ImageDatasets:
    """Holds the splits of a sweep's images, each as an MLflow dataset."""

    def __init__(self, runs: RunStore):
        self._runs = runs
        self._by_split: dict[str, Dataset] = {}
        self._logged: set[tuple[str, str]] = set()  # pairs of run and split that need no request

    def define(self, plan: Plan) -> None:
        """Take the splits of the plan's images."""
        source = redacted(str(plan.spec.images.data or plan.name))
        self._by_split = {
            split: _dataset(plan.name, plan.images_digest, split, source, count)
            for split, count in plan.counts.items()
        }

    @property
    def splits(self) -> list[str]:
        """List the names of the splits."""
        return list(self._by_split)

    def log_input(self, key: str, split: str) -> None:
        """Log that the run ``key`` used a split's images; once for each process."""
        if (key, split) in self._logged:
            return
        context = InputTag("mlflow.data.context", split)
        used = DatasetInput(self._by_split[split], [context])
        self._runs.client.log_inputs(self._runs.run_id(key), datasets=[used])
        self._logged.add((key, split))

    def point(self, split: str, name: str, value: float, at_ms: int, step: int) -> Metric:
        """Build a metric's point that names the split on which it was measured.

        Args:
            at_ms: Unix time.
        """
        images = self._by_split[split]
        return Metric(
            name, value, at_ms, step, dataset_name=images.name, dataset_digest=images.digest
        )


def _dataset(name: str, digest: str, split: str, source: str, count: int) -> Dataset:
    return Dataset(
        name=f"{name} {split}"[:500],
        digest=f"{digest[:24]} {split}",  # MLflow allows 36 characters.
        source_type="local",
        source=json.dumps({"uri": source}),
        profile=json.dumps({"num_rows": count}),
    )
