"""The plan as a terminal prints it."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeps.execution import gpu_memory, resources
from sweeps.execution.resources import MemoryNeed, PhaseResources, TrialResources
from sweeps.planning.plan import Plan
from sweeps.planning.workload import expected_gmacs_left, gmacs_left, image_passes


def plan_view(plan: Plan) -> Group:
    """The plan as tables."""
    spec, grid = plan.spec, plan.grid
    counts = ", ".join(f"{n} {split}" for split, n in plan.counts.items())
    passes = ", ".join(f"{n:,} {what}" for what, n in image_passes(plan).items())
    most = sum(gmacs_left(plan, p) for p in plan.points) * plan.samples
    expected = sum(expected_gmacs_left(plan, p) for p in plan.points) * plan.samples
    lines = [
        f"images   {counts}; {len(plan.classes)} classes; fingerprint {plan.images_digest[:12]}",
        f"trunks   {plan.trunks}: {' '.join(spec.grid.variants)} x train {_px(grid.train_res)} x "
        f"{plan.samples} samples; {_epochs(plan)}",
        f"cells    {plan.cells}: {plan.survivors} trunk(s) of each variant and train resolution x "
        f"test {_px(grid.test_res)}; arms {' '.join(spec.fix.arms)}",
        *(f"{'ladder' if i == 0 else '':8} {line}" for i, line in enumerate(grid.why)),
        f"passes   {passes} (images, at most)",
    ]
    if spec.trunks.epochs:
        lines.append(
            f"work     {most / 1e3:,.1f} TMACs of training at most, about {expected / 1e3:,.1f} "
            "with cuts"
        )
    else:
        lines.append(
            "labels   classes in the order of their names are taken for the weights' own order"
        )
    return Group(*(Text(line) for line in lines), _costs(plan), *_gpus(plan))


def _px(resolutions: Sequence[int]) -> str:
    return f"{' '.join(map(str, resolutions))} px"


def _epochs(plan: Plan) -> str:
    if plan.spec.trunks.epochs == 0:
        return "as their weights are, untrained"
    rungs = ", ".join(map(str, plan.spec.rungs[:-1])) or "none"
    return f"{plan.spec.trunks.epochs} epochs, cut after {rungs}"


def _costs(plan: Plan) -> Table:
    resolutions = sorted({res for _, res in plan.costs})
    table = Table(title="GMACs of one image", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("variant")
    table.add_column("M params", justify="right")
    for res in resolutions:
        table.add_column(f"{res} px", justify="right")
    for variant in plan.spec.grid.variants:
        own = {res: cost for (name, res), cost in plan.costs.items() if name == variant}
        table.add_row(
            variant,
            f"{next(iter(own.values())).params_m:.2f}",
            *(f"{own[res].gmacs:.3g}" if res in own else "" for res in resolutions),
        )
    return table


def _gpus(plan: Plan) -> list[RenderableType]:
    """What trunks need of a GPU and take of it, where one is seen or to come."""
    phase_resources = PhaseResources(
        placement=resources.expected_placement(plan.spec.resources),
        needs=gpu_memory.trunk_memory_needs(plan),
    )
    gpu = phase_resources.placement.cluster_resources.gpu
    if gpu is None or not phase_resources.placement.uses_gpus:
        return []
    table = Table(title="GB of a trunk on GPUs", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("variant")
    for res in plan.grid.train_res:
        table.add_column(f"{res} px", justify="right")
    told = {
        size: _taken(need, phase_resources.trial_resources[size], gpu.gb)
        for size, need in phase_resources.needs.items()
    }
    for variant in plan.spec.grid.variants:
        table.add_row(variant, *(told.get((variant, res), "") for res in plan.grid.train_res))
    parts: list[RenderableType] = [Text(f"gpu      {gpu.gb:.1f} GB each ({gpu.source})"), table]
    if any(words.endswith("*") for words in told.values()):
        parts.append(Text("* more than one has: steps are split; --workers-per-trial spreads them"))
    return parts


def _taken(need: MemoryNeed, ask: TrialResources, gb: float) -> str:
    """GB of the trial, or of each of its workers, and its GPUs."""
    gpus = ask.gpus * ask.workers
    share = f"1/{floor(1 / gpus)}" if 0 < gpus <= 0.5 else f"{gpus:g}"
    needed = need.gb(ask.workers)
    each = f" on each of {share}" if ask.workers > 1 else f" on {share}"
    return f"{needed:.1f}{each}{' *' if needed > gb else ''}"
