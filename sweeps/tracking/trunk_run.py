"""Write the run of a trunk: its hyperparameters, metrics by epoch, and its weights."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow.entities import Metric

from sweeps.planning.plan import Plan
from sweeps.tracking.datasets import ImageDatasets
from sweeps.tracking.logged_models import LoggedModels
from sweeps.tracking.payloads import (
    epoch_metrics,
    trunk_end_tags,
    trunk_params,
    trunk_run_name,
    trunk_tags,
)
from sweeps.tracking.runs import FAILED, FINISHED, RunStore, points, trunk_key
from trainables.storage.artifact_store import Store
from trainables.training.trunk import EpochReport, TrunkSpec, TrunkStatus, recorded_reports


class TrunkRunWriter:
    """Writes the runs of trunks; each method may be called again with the same values.

    A run that has finished is left as it is. Times are Unix times in ms.

    Args:
        store: of the sweep, which holds the trunks' weights.
    """

    def __init__(self, runs: RunStore, datasets: ImageDatasets, models: LoggedModels, store: Store):
        self._runs, self._datasets, self._models, self._store = runs, datasets, models, store
        self._varied: tuple[str, ...] = ()

    def define(self, plan: Plan) -> None:
        """Take note of what the search of a plan varies, before runs are created."""
        self._varied = plan.search.varied

    def begin(self, trunk: TrunkSpec, at_ms: int) -> bool:
        """Create the run unless it exists, and return whether it has finished."""
        key = trunk_key(trunk.key)
        params, tags = trunk_params(trunk, self._varied), trunk_tags(trunk)
        return self._runs.ensure(key, trunk_run_name(trunk), params, tags, at_ms)

    def log_images(self, trunk: TrunkSpec, at_ms: int) -> None:
        """Log that the train images are used."""
        if not self.begin(trunk, at_ms):
            self._datasets.log_input(trunk_key(trunk.key), "train")

    def defer_epoch(self, trunk: TrunkSpec, report: EpochReport, at_ms: int) -> None:
        """Keep an epoch's metrics for the next write."""
        if not self.begin(trunk, at_ms):
            self._runs.defer_metrics(trunk_key(trunk.key), _epoch_points(report))

    def end(
        self, trunk: TrunkSpec, status: TrunkStatus, reports: Sequence[EpochReport], at_ms: int
    ) -> None:
        """Write the metrics of all epochs and how the trunk ended, and end the run.

        Args:
            status: only FAILED is a failure in MLflow.
        """
        if self.begin(trunk, at_ms):
            return
        key = trunk_key(trunk.key)
        self._runs.log_metrics(key, [p for report in reports for p in _epoch_points(report)])
        self._runs.set_tags(key, trunk_end_tags(status, reports))
        self._runs.end(key, FAILED if status == TrunkStatus.FAILED else FINISHED, at_ms)

    def log_model(self, trunk: TrunkSpec) -> None:
        """Log the weights of a trunk that cells are made from, with its latest val accuracies."""
        reports = recorded_reports(self._store, trunk.key)
        last = [report for report in reports if report.val][-1:]  # none of an untouched net
        self._models.log(
            trunk_key(trunk.key),
            f"trunk-{trunk.variant}-tr{trunk.train_res}",
            params={"variant": trunk.variant, "train_res": trunk.train_res},
            files=[self._store.trunk(trunk.key) / "trunk.safetensors"],
            metrics=[
                self._datasets.point(
                    "val", f"val/top1_at_{res}", score.top1, report.at, report.epoch
                )
                for report in last
                for res, score in report.val.items()
            ],
            step=sum(report.epoch for report in last),
        )


def _epoch_points(report: EpochReport) -> list[Metric]:
    return points(epoch_metrics(report), report.at, report.epoch)
