"""Refit the choice: train its trunk and fit its arm again, on train + val.

Everything else stays as chosen: hyperparameters, seed, number of epochs under the same schedule,
the classifier's setting and its epochs. As val is trained on, only the held-out sets can judge the
result. Each part continues from what the store holds of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sweeps.execution import gpu_memory
from sweeps.execution.phases import failed_in_words, run_works
from sweeps.execution.ray_cluster import RayCluster
from sweeps.execution.resources import MemoryNeed, PhaseResources
from sweeps.final_model.outcome import ServedModel
from sweeps.planning.cell import Cell
from sweeps.planning.grid import point_of
from sweeps.planning.plan import Plan
from sweeps.selection.leaderboard import Row
from trainables.data.decode import Progress
from trainables.data.image_set import ImageSet
from trainables.errors import SweepError
from trainables.fixres.cell import RefitCell, recorded_results
from trainables.ray_backend.tune_trainables import (
    CellWork,
    TrialContext,
    TrunkWork,
    Work,
)
from trainables.storage.artifact_store import Store
from trainables.storage.files import Place
from trainables.training.trunk import (
    TrunkSpec,
    TrunkStatus,
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
    """Train and adapt the chosen row's configuration on train + val, unless the store has it.

    A trunk that the sweep did not train (0 epochs) stays as it is; only its arm is fitted again.

    Args:
        images: the image set of the sweep.
        context: the context of the sweep's trials.
        progress: called with the epochs of the trunk that are done, and their total.

    Raises:
        SweepError: a trial fails, or training diverges.
    """
    merged = images.merged()
    runner = _TrialRunner(chosen.label, replace(context, refit=True), cluster)
    trunk = read_trunk_spec(store, chosen.trunk)
    if chosen.trunk_epochs > 0:
        trunk = replace(trunk, images=merged.digest)
        need = gpu_memory.trunk_memory_need(plan, point_of(trunk))
        _train(trunk, need, chosen.trunk_epochs, store, runner, progress)
    cell = refit_cell(plan, chosen, trunk, merged.digest)
    if recorded_results(store, cell.key) is None:
        need = gpu_memory.cell_memory_need(plan, chosen.variant, chosen.train_res, chosen.test_res)
        work = CellWork(cell=cell.spec)
        runner.run(work, need, lambda _: False, store.cell(cell.key))
    refit_s = sum(result.seconds for result in recorded_results(store, cell.key) or ())
    if chosen.trunk_epochs > 0:
        refit_s += sum(report.took_s for report in recorded_reports(store, trunk.key))
    return ServedModel(cell=cell, arm=chosen.arm, refit=True, refit_s=refit_s)


def refit_cell(plan: Plan, chosen: Row, trunk: TrunkSpec, images_digest: str) -> Cell:
    """Make the cell that fits the chosen row's arm to the refitted trunk, on train + val.

    Args:
        images_digest: the digest of the merged image set.
    """
    cell = plan.cell(trunk, chosen.trunk_epochs, chosen.test_res, chosen.crop_pct)
    spec = {**vars(cell.spec), "arms": (chosen.arm,)}
    return replace(cell, spec=RefitCell(**spec, images=images_digest, setting=chosen.head))


@dataclass(frozen=True)
class _TrialRunner:
    """Runs the trials of a refit, one at a time."""

    label: str
    """The choice in words."""
    context: TrialContext
    cluster: RayCluster

    def run(
        self,
        work: Work,
        need: MemoryNeed,
        should_continue: Callable[[dict[str, Any]], bool],
        folder: Place,
    ) -> None:
        """Run one trial to its end.

        Args:
            should_continue: receives each result, and decides whether the trial continues.
            folder: the trial's folder in the store.

        Raises:
            SweepError: the trial fails; its traceback is left in ``folder``.
        """
        net = (self.label, 0)
        resources = PhaseResources(placement=self.cluster.placement, needs={net: need}, alone=True)
        (trace,) = run_works([(net, work)], resources, self.context, should_continue)
        if trace is not None:
            raise SweepError(
                f"The refit of {self.label} {failed_in_words(trace, folder)}; the same command "
                "tries again."
            )


def _train(
    trunk: TrunkSpec,
    need: MemoryNeed,
    epochs: int,
    store: Store,
    runner: _TrialRunner,
    progress: Progress | None,
) -> None:
    """Train the trunk for the first ``epochs`` epochs of its schedule."""
    folder = store.trunk(trunk.key)
    if (folder / "result.json").exists():
        return

    def should_continue(result: dict[str, Any]) -> bool:
        report = result["report"]
        if progress is not None:
            progress(report.epoch, epochs)
        return bool(report.epoch < epochs)

    if trained_epochs(recorded_reports(store, trunk.key)) < epochs:
        work = TrunkWork(trunk=trunk, val_transforms=(), rungs=())
        runner.run(work, need, should_continue, folder)
    if any(report.diverged for report in recorded_reports(store, trunk.key)):
        raise SweepError(
            f"The refit of {runner.label} diverged, though the same settings did not on train "
            "alone: run the sweep without --refit, in another --out."
        )
    finalize_trunk(store, trunk.key, TrunkStatus.FINISHED)
