"""The choice once more with nothing held back: its trunk trained, its arm fitted, on train + val.

As chosen: hyperparameters, seed, number of epochs under the same schedule, the classifier's setting
and its epochs. Val is trained on, so that nothing is judged on it any more; what the result is
worth, the test split says. Each part goes on from what the store holds of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sweeps.execution import gpu_memory
from sweeps.execution.ray_cluster import RayCluster
from sweeps.execution.resources import MemoryNeed, PhaseResources
from sweeps.execution.tune_runner import Config, Phase, Trainable, run_trials
from sweeps.final_model.outcome import ServedModel
from sweeps.planning.cell import Cell
from sweeps.planning.grid import point_of
from sweeps.planning.plan import Plan
from sweeps.selection.leaderboard import Row
from trainables.data.decode import Progress
from trainables.data.image_set import ImageSet
from trainables.errors import SweepError
from trainables.fixres.cell import RefitCell, recorded_results
from trainables.ray_backend.tune_trainables import CellTrainable, TrialContext, TrunkTrainable
from trainables.storage.artifact_store import Store
from trainables.storage.files import Place, write_text
from trainables.training.trunk import (
    TrunkSpec,
    TrunkStatus,
    epoch_report_from_json,
    finalize_trunk,
    read_trunk_spec,
    recorded_reports,
    trained_epochs,
)


def refit(
    plan: Plan,
    chosen: Row,
    images: ImageSet,
    store: Store,
    context: TrialContext,
    cluster: RayCluster,
    progress: Progress | None = None,
) -> ServedModel:
    """Train and adapt the chosen row's configuration on train + val, or find it done.

    A pretrained trunk that was taken as it is stays as it is; only its arm is fitted again.

    Args:
        images: the sweep's own.
        context: of the sweep's own trials.
        progress: called with epochs of the trunk done, and in all.

    Raises:
        SweepError: it cannot be done, or comes to nothing finite.
    """
    merged = images.merged()
    trials = _Trials(chosen.label, replace(context, refit=True, rungs=()), cluster)
    trunk = read_trunk_spec(store, chosen.trunk)
    if chosen.trunk_epochs > 0:
        trunk = replace(trunk, images=merged.digest)
        need = gpu_memory.of_trunk(plan, point_of(trunk))
        _train(trunk, need, chosen.trunk_epochs, store, trials, progress)
    cell = cell_of(plan, chosen, trunk, merged.digest)
    if recorded_results(store, cell.key) is None:
        need = gpu_memory.of_cell(plan, chosen.variant, chosen.train_res, chosen.test_res)
        trials.run(CellTrainable, {"cell": cell.spec}, need, lambda _: False, store.cell(cell.key))
    return ServedModel(cell=cell, arm=chosen.arm, refit=True)


def cell_of(plan: Plan, chosen: Row, trunk: TrunkSpec, images_digest: str) -> Cell:
    """Make the cell of the chosen row's arm, on a trunk and images of its own."""
    swept = plan.cell(trunk, chosen.trunk_epochs, chosen.test_res)
    settled = {**vars(swept.spec), "arms": (chosen.arm,)}
    return replace(swept, spec=RefitCell(**settled, images=images_digest, setting=chosen.head))


@dataclass(frozen=True)
class _Trials:
    """Where trials run, one by one."""

    place: str  # of the choice, in words
    context: TrialContext
    cluster: RayCluster

    def run(
        self,
        trainable: type[Trainable],
        config: Config,
        need: MemoryNeed,
        goes_on: Callable[[dict[str, Any]], bool],
        folder: Place,
    ) -> None:
        """Raises:
        SweepError: the trial fails; its trace is left in ``folder``.
        """
        size = ("", 0)  # there is only this one
        phase_resources = PhaseResources(
            placement=self.cluster.placement, needs={size: need}, alone=True
        )
        waiting, traces = [{"size": size, **config}], []
        phase = Phase(
            next_config=lambda: waiting.pop() if waiting else None,
            should_continue=lambda _, result: goes_on(result),
            failed=lambda _, trace: traces.append(trace),
        )
        run_trials(trainable, phase, self.context, phase_resources)
        if traces:
            write_text(folder / "error.txt", traces[0])
            last = next((s for s in reversed(traces[0].splitlines()) if s.strip()), "no trace")
            raise SweepError(
                f"The refit of {self.place} px failed: {last.strip()} (the whole trace is in "
                f"{folder / 'error.txt'}); the same command tries again."
            )


def _train(
    trunk: TrunkSpec,
    need: MemoryNeed,
    epochs: int,
    store: Store,
    trials: _Trials,
    progress: Progress | None,
) -> None:
    """Train the trunk for ``epochs`` of its schedule."""
    folder = store.trunk(trunk.key)
    if (folder / "result.json").exists():
        return

    def goes_on(result: dict[str, Any]) -> bool:
        report = epoch_report_from_json(json.loads(result["report"]))
        if progress is not None:
            progress(report.epoch, epochs)
        return report.epoch < epochs

    if trained_epochs(recorded_reports(store, trunk.key)) < epochs:
        trials.run(TrunkTrainable, {"trunk": trunk, "val_transforms": ()}, need, goes_on, folder)
    if any(report.diverged for report in recorded_reports(store, trunk.key)):
        raise SweepError(
            f"The refit of {trials.place} px diverged, though the same settings did not on train "
            "alone: run the sweep without --refit, in another --out."
        )
    finalize_trunk(store, trunk.key, TrunkStatus.FINISHED)
