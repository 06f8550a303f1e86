"""Decide where the sets are read that the choice is scored on, and read them in trials.

On a cluster each set and net is a trial on a worker: the driver's machine, its head, need not have
a GPU, and a net of any size is read within the time that a cell of it takes. A trial that is
preempted is tried again.

Without a cluster the driver reads them itself. It sees the devices that trials see, so a trial
gains nothing, and costs a process: test and val of 20 images each took 9.5 s in a trial, most of it
the imports of PyTorch and timm, and 1.3 s in the driver, on two cores. Both ways run the same code
with as many threads, and give the same logits, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.environment import on_cluster
from sweeps.execution.phases import failed_in_words, run_works
from sweeps.execution.plan_resources import reading_resources
from sweeps.execution.ray_cluster import RayCluster
from sweeps.execution.resources import NetAtRes
from sweeps.final_model.held_out import ReadAll, read_here
from sweeps.planning.plan import Plan
from trainables.data.decode import Progress
from trainables.data.image_set import ImageSet
from trainables.errors import SweepError
from trainables.fixres.held_out_score import Reading
from trainables.ray_backend.tune_trainables import ReadingWork, TrialContext, Work
from trainables.storage.artifact_store import Store
from trainables.training.trunk import read_trunk_spec


def reader(
    plan: Plan,
    images: ImageSet,
    store: Store,
    context: TrialContext,
    cluster: RayCluster,
    progress: Progress,
) -> ReadAll:
    """Make the function that reads the sets where that is best.

    Args:
        context: the context of the sweep's trials.
        progress: called with the readings that trials have made, and their total.
    """
    if not on_cluster():
        return read_here(plan, images, store)
    return read_in_trials(plan, store, context, cluster, progress)


def read_in_trials(
    plan: Plan,
    store: Store,
    context: TrialContext,
    cluster: RayCluster,
    progress: Progress,
) -> ReadAll:
    """Make the function that makes each reading in a trial; arguments as of :func:`reader`.

    It raises SweepError where the retries of a trial have all failed.
    """

    def read_all(readings: Sequence[Reading]) -> None:
        done = 0

        def count(_: object) -> bool:
            nonlocal done
            done += 1
            progress(done, len(readings))
            return False

        works, train_res = list[tuple[NetAtRes, Work]](), dict[NetAtRes, int]()
        for reading in readings:
            trunk = read_trunk_spec(store, reading.cell.trunk)
            net = (trunk.variant, reading.cell.test_res)
            works.append((net, ReadingWork(reading=reading)))
            train_res[net] = max(trunk.train_res, train_res.get(net, 0))
        resources = reading_resources(plan, cluster.placement, train_res, len(works))
        traces = run_works(works, resources, context, count)
        for reading, trace in zip(readings, traces, strict=True):
            if trace is not None:
                words = failed_in_words(trace, store.cell(reading.cell.key))
                raise SweepError(
                    f"The reading of {reading.name} {words}; the same command tries again."
                )

    return read_all
