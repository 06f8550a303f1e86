"""Lay out the plan for the terminal: its counts, costs and GPU memory."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeps.events.durations import Durations
from sweeps.events.forecast import forecast
from sweeps.execution import resources
from sweeps.execution.gpu_memory import images_at_once
from sweeps.execution.plan_resources import cell_resources, spread_line, trunk_resources
from sweeps.execution.resources import MemoryNeed, PhaseResources, TrialResources
from sweeps.execution.timed_devices import kept_timings
from sweeps.planning.cell import crop_in_words
from sweeps.planning.class_balance import class_balance_in_words
from sweeps.planning.options.touched import in_words
from sweeps.planning.plan import Plan
from sweeps.planning.savings.cascade import cascade_to_be_in_words
from sweeps.planning.search import FEW_STEPS_LR, norms_follow, steps_of, wants_high_rates
from sweeps.planning.units import duration
from sweeps.planning.workload import (
    cell_images,
    expected_gmacs_left,
    expected_samples,
    further_crop_cells,
    gmacs_left,
    image_passes,
)
from trainables.fixres.arms import UNTOUCHED_ARMS
from trainables.models import variants
from trainables.models.frozen_norms import MIN_NORMED
from trainables.profiling.speed import NOMINAL_DEVICE

CLASSES_SHOWN = 3  # first and last


def plan_view(plan: Plan) -> Group:
    """Lay out the plan: lines of counts, a table of costs and, with GPUs, one of memory."""
    spec, grid = plan.spec, plan.grid
    counts = ", ".join(f"{n} {split}" for split, n in plan.counts.items())
    passes = ", ".join(f"{n:,} {what}" for what, n in image_passes(plan).items())
    most_gmacs = sum(plan.trunks_at(p) * gmacs_left(plan, p) for p in plan.points)
    expected_gmacs = sum(expected_gmacs_left(plan, p) for p in plan.points)
    lines = [
        f"images   {counts}; {len(plan.classes)} classes; fingerprint {plan.images_digest[:12]}",
        *([f"layout   {plan.layout}"] if plan.layout else []),
        *([f"splits   {plan.splits}"] if plan.splits else []),
        *([f"alike    near-duplicates: {plan.near_duplicates}"] if plan.near_duplicates else []),
        f"classes  {_classes(plan)}",
        *([f"balance  {balance}"] if (balance := class_balance_in_words(plan)) else []),
        f"trunks   {plan.trunks}: {' '.join(spec.grid.variants)} x train {_px(grid.train_res)} x "
        f"{plan.samples} samples{_no_more(plan)}; {_epochs(plan)}",
        *_cascade(plan),
        *_repeats(plan),
        *_start(plan),
        *_few_steps(plan),
        *([f"search   {plan.search.in_words}"] if spec.trunks.epochs else []),
        f"cells    {plan.cells}: {plan.fixed} trunk(s) of each variant and train resolution x "
        f"test {_px(grid.test_res)} x crop {_ratios(grid.crop_pct)}; arms "
        f"{' '.join(spec.fix.arms)}",
        *_crops(plan),
        *_touched(plan),
        *_untouched(plan),
        *_screen(plan),
        *(f"{'ladder' if i == 0 else '':8} {line}" for i, line in enumerate(grid.reasons)),
        f"passes   {passes} (images, at most)",
    ]
    if spec.trunks.epochs:
        lines.append(
            f"work     {most_gmacs / 1e3:,.1f} TMACs (10^12 multiply-adds) of training at most, "
            f"about {expected_gmacs / 1e3:,.1f} with cuts"
        )
    else:
        lines.append("labels   the classes in this order are taken for the weights' own order")
    lines += _times(plan)
    if spread := spread_line(plan, resources.expected_placement(spec.resources)):
        lines.append(f"spread   {spread}")
    return Group(*(Text(line) for line in lines), _costs(plan), *_gpus(plan))


def _times(plan: Plan) -> list[str]:
    """Say what the plan takes here, as earlier sweeps have timed it, or that none has."""
    durations = Durations(plan, kept_timings(plan))
    predicted = forecast(plan, durations)
    if not durations.is_measured:
        return [
            "time     not known: this device was never timed, and the first epochs will tell "
            f"(an {NOMINAL_DEVICE} that computes all the time would take "
            f"{duration(predicted.trunks_s)} for the trunks and {duration(predicted.cells_s)} for "
            "the cells, by timm's benchmark of EfficientNets)"
        ]
    placement = resources.expected_placement(plan.spec.resources)
    at_a_time = trunk_resources(plan, placement).concurrency or 1
    cells_at_a_time = cell_resources(plan, placement, plan.cells).concurrency or 1
    end_s = predicted.reading_s + predicted.refit_s + predicted.close_s
    elapsed_s = predicted.trunks_s / at_a_time + predicted.cells_s / cells_at_a_time + end_s
    return [
        f"time     about {duration(elapsed_s)} ({duration(predicted.trunks_s)} of trunks, "
        f"{duration(predicted.trunks_most_s)} if none is cut, {at_a_time} at a time; "
        f"{duration(predicted.cells_s)} of cells, {cells_at_a_time} at a time; {duration(end_s)} "
        f"the start and the end), as earlier sweeps took on {predicted.device}"
    ]


def _no_more(plan: Plan) -> str:
    """Say where a point has fewer trunks than were asked for; nothing elsewhere."""
    fewer = plan.samples < plan.spec.search.samples and plan.spec.trunks.epochs > 0
    return f" (of --samples {plan.spec.search.samples}, as no more differ)" if fewer else ""


def _cascade(plan: Plan) -> list[str]:
    """Say which trunks start from others; nothing where none does."""
    samples = plan.samples_of_cascading, plan.samples
    words = cascade_to_be_in_words(plan.spec, plan.cascading, len(plan.points), samples)
    return [f"cascade  {words}"] if words else []


def _start(plan: Plan) -> list[str]:
    """Say where classifiers start from a probe, and what does not train, or not at once."""
    trunks, said = plan.spec.trunks, []
    if not trunks.epochs:
        return []
    if trunks.start == "probe":
        said.append("start    of the classifier: a linear probe of the net as its weights come")
        if norms_follow(plan.spec):
            said.append(
                "         (batch norms that follow each batch take its features away at once: "
                "--freeze-batch-norm keeps them)"
            )
    if trunks.head_only_epochs:
        said.append(
            f"frozen   all but the classifier in the first {trunks.head_only_epochs} epoch(s)"
        )
    if trunks.freeze_batch_norm:
        said.append("frozen   batch norms, statistics, scales and shifts, in all of the training")
    return said


def _few_steps(plan: Plan) -> list[str]:
    """Say where trunks take few steps, and which learning rates suit them; nothing elsewhere."""
    spec, train, (low, high) = plan.spec, plan.counts["train"], FEW_STEPS_LR
    if not wants_high_rates(spec, train):
        return []
    said = f"steps    {steps_of(spec, train)} of a trunk, which are few: "
    if min(plan.possible("lr")) < low:
        return [
            f"{said}at learning rates up to {low:g} trunks can be worse than untouched nets; try "
            f"--lr {low:g} {high:g} (docs/training.md)"
        ]
    return [f"{said}high learning rates suit them (docs/training.md)"]


def _repeats(plan: Plan) -> list[str]:
    """Say how many of the trunks are repeats; nothing where there are none."""
    if not plan.repeats:
        return []
    return [
        f"repeats  {len(plan.points) * plan.repeats} of the trunks: what is fixed of a variant and "
        f"train resolution, once it is known, is trained {plan.spec.search.repeat} times to the "
        "end, each with another seed"
    ]


def _classes(plan: Plan) -> str:
    """Name the first and the last classes in their order, and the smallest and the largest."""
    names, sizes = plan.classes, plan.class_sizes
    shown = list(names)
    if len(names) > 2 * CLASSES_SHOWN:
        shown = [*names[:CLASSES_SHOWN], "...", *names[-CLASSES_SHOWN:]]
    least, most = (pick(range(len(names)), key=lambda i: sizes[i]) for pick in (min, max))
    counts = (
        f"smallest {names[least]} ({sizes[least]} images), largest {names[most]} ({sizes[most]})"
    )
    if sizes[least] == sizes[most]:
        counts = f"each of {sizes[least]} images"
    return f"{', '.join(shown)} (--class-order {plan.spec.images.class_order}); {counts}"


def _ratios(crops: Sequence[float]) -> str:
    return " ".join(map(crop_in_words, crops))


def _touched(plan: Plan) -> list[str]:
    """Say what FixRes touches of nets that are no EfficientNets, and which arms that leaves out."""
    others = [name for name in plan.spec.grid.variants if not variants.get(name).is_of_family]
    lines = [f"{name}: {in_words(name)}{_left_out(plan, name)}" for name in others]
    return [f"{'' if i else 'touches':8} {line}" for i, line in enumerate(lines)]


def _left_out(plan: Plan, variant: str) -> str:
    lacking = [arm for arm in plan.spec.fix.arms if arm not in plan.arms_for(variant)]
    return f"; no arm {' '.join(lacking)}" if lacking else ""


def _untouched(plan: Plan) -> list[str]:
    """Say which nets are tried untouched, or that there are none."""
    spec = plan.spec
    if plan.has_untouched:
        images = plan.cells_untouched * cell_images(plan, UNTOUCHED_ARMS)
        return [
            f"untouched {plan.cells_untouched} of the cells, and {images:,} of the images that are "
            f"adapted in cells, are for {' '.join(spec.grid.variants)} as the weights come: not "
            "fine-tuned, a classifier is fitted on the features"
        ]
    if spec.grid.untouched and spec.trunks.epochs and spec.grid.weights == "none":
        return ["untouched left out: --weights none has no weights to leave as they are"]
    return []


def _screen(plan: Plan) -> list[str]:
    """Say what the untouched nets have left out, or that they will."""
    if plan.screen is not None:
        return [f"screen   {plan.screen.in_words}"]
    if not plan.is_to_be_screened:
        return []
    share, points, variants = plan.spec.grid.screen, len(plan.points), len(plan.spec.grid.variants)
    stay = ceil(round(share * points, 6))
    most = min(points, stay + variants - 1 + len(plan.bases))
    bases = " and what others start from" if plan.bases else ""
    return [
        f"screen   --screen {share:g}: of the {points} variants and train resolutions, {stay} to "
        f"{most} are trained, the best by the untouched nets, of each variant one at least{bases}; "
        "all counts here are without it"
    ]


def _crops(plan: Plan) -> list[str]:
    """Say what trying several crop ratios costs; nothing where there is one at each resolution."""
    further = further_crop_cells(plan)
    if not further:
        return []
    return [
        f"crops    {further} of the cells, and {further * cell_images(plan):,} of the images that "
        "are adapted in cells, are for further crops of the same resolution; rungs take that of "
        "the weights alone"
    ]


def _px(resolutions: Sequence[int]) -> str:
    return f"{' '.join(map(str, resolutions))} px"


def _epochs(plan: Plan) -> str:
    if plan.spec.trunks.epochs == 0:
        return "as their weights are, untrained"
    rungs = plan.rungs
    words = f"{plan.spec.trunks.epochs} epochs"
    if not rungs[:-1]:
        return f"{words}, none cut: the first rung is {plan.grace_epochs} (--grace-epochs)"
    words += f", cut after {', '.join(map(str, rungs[:-1]))}"
    if plan.samples == 1:
        return words
    left = [expected_samples(plan, rungs, rung + 1, plan.samples) for rung in rungs[:-1]]
    go_on = ", ".join(map(str, left))
    return f"{words}: of {plan.samples} of a point, about {go_on} go on"


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
    """Lay out the GPU memory and share of each trunk; nothing where no GPU is used or known."""
    phase_resources = trunk_resources(plan, resources.expected_placement(plan.spec.resources))
    gpu = phase_resources.placement.cluster_resources.gpu
    if gpu is None or not phase_resources.placement.uses_gpus:
        return []
    table = Table(title="GB of a trunk on GPUs", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("variant")
    for res in plan.grid.train_res:
        table.add_column(f"{res} px", justify="right")
    words_of = {
        net: _memory_in_words(need, phase_resources.trial_resources[net], gpu.gb)
        for net, need in phase_resources.needs.items()
    }
    for variant in plan.spec.grid.variants:
        table.add_row(variant, *(words_of.get((variant, res), "") for res in plan.grid.train_res))
    parts: list[RenderableType] = [Text(f"gpu      {gpu.gb:.1f} GB each ({gpu.source})"), table]
    if any(words.endswith("*") for words in words_of.values()):
        parts.append(Text("* more than one has: steps are split; --workers-per-trial spreads them"))
    parts += [Text(line) for line in _split_steps(plan, phase_resources, gpu.gb)]
    return parts


def _split_steps(plan: Plan, phase_resources: PhaseResources, gpu_gb: float) -> list[str]:
    """Say how much of a step is at once on a GPU, where that is not all of a worker's share."""
    lines = []
    are_frozen = all(plan.possible("freeze_batch_norm"))  # they stand still whatever is at once
    for point in plan.points:
        trial = phase_resources.trial_resources[point.variant, point.train_res]
        at_once = images_at_once(plan, point, gpu_gb, trial.workers)
        if at_once is not None:
            still = at_once * trial.workers < MIN_NORMED and not are_frozen
            lines.append(
                f"split    {point.variant} at {point.train_res} px: {at_once} images at once on "
                f"each GPU, by the estimate{', and batch norms stand still' if still else ''}; the "
                "batch of a step and learning rates stay as they are"
            )
    return lines


def _memory_in_words(need: MemoryNeed, trial: TrialResources, gpu_gb: float) -> str:
    """Write the GB that each worker of the trial needs, and its GPUs; * where it does not fit."""
    gpus = trial.gpus * trial.workers
    share = f"1/{floor(1 / gpus)}" if 0 < gpus <= 0.5 else f"{gpus:g}"
    needed = need.gb(trial.workers)
    each = f" on each of {share}" if trial.workers > 1 else f" on {share}"
    return f"{needed:.1f}{each}{' *' if needed > gpu_gb else ''}"
