"""The plan and the results as a terminal prints them."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from sweeps.execution import gpu_memory, resources
from sweeps.execution.resources import Ask, Need, Room
from sweeps.final_model.held_out import Gain
from sweeps.final_model.outcome import Outcome
from sweeps.planning.plan import Plan
from sweeps.planning.serving_limits import rounded
from sweeps.selection.choice import Choice, front
from sweeps.selection.leaderboard import Row
from sweeps.selection.published_comparison import Comparison
from trainables.evaluation.confidence import wilson
from trainables.fixres.arms import UNTUNED, rank


def plan_view(plan: Plan) -> Group:
    """The plan as tables."""
    spec, grid = plan.spec, plan.grid
    counts = ", ".join(f"{n} {split}" for split, n in plan.counts.items())
    passes = ", ".join(f"{n:,} {what}" for what, n in plan.image_passes.items())
    most = sum(plan.work_left(p) for p in plan.points) * plan.samples
    expected = sum(plan.expected_work_left(p) for p in plan.points) * plan.samples
    lines = [
        f"images   {counts}; {len(plan.classes)} classes; fingerprint {plan.images[:12]}",
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
    room = Room(placement=resources.expected(plan.spec.run), needs=gpu_memory.of_trunks(plan))
    gpu = room.placement.machines.gpu
    if gpu is None or not room.placement.uses_gpus:
        return []
    table = Table(title="GB of a trunk on GPUs", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("variant")
    for res in plan.grid.train_res:
        table.add_column(f"{res} px", justify="right")
    told = {size: _taken(need, room.asks[size], gpu.gb) for size, need in room.needs.items()}
    for variant in plan.spec.grid.variants:
        table.add_row(variant, *(told.get((variant, res), "") for res in plan.grid.train_res))
    parts: list[RenderableType] = [Text(f"gpu      {gpu.gb:.1f} GB each ({gpu.source})"), table]
    if any(words.endswith("*") for words in told.values()):
        parts.append(Text("* more than one has: steps are split; --workers-per-trial spreads them"))
    return parts


def _taken(need: Need, ask: Ask, gb: float) -> str:
    """GB of the trial, or of each of its workers, and its GPUs."""
    gpus = ask.gpus * ask.workers
    share = f"1/{floor(1 / gpus)}" if 0 < gpus <= 0.5 else f"{gpus:g}"
    needed = need.gb(ask.workers)
    each = f" on each of {share}" if ask.workers > 1 else f" on {share}"
    return f"{needed:.1f}{each}{' *' if needed > gb else ''}"


def summary(outcome: Outcome, compared: Sequence[Comparison] = (), *, limit: int = 8) -> Group:
    """The best rows, the arms, the choice, and what the sets say that nothing was chosen on."""
    rows, choice = outcome.rows, outcome.choice
    val = sorted((r for r in rows if r.split == "val"), key=lambda r: (-r.hits1, r.gmacs, r.arm))
    parts: list[RenderableType] = [_board(val, choice, limit)]
    if len({r.arm for r in val}) > 1:
        parts.append(_arms(val))
    if compared:
        parts.append(_published(compared))
    parts.append(Text(f"chosen   {choice.reason}"))
    parts.append(Text(f"optimism {optimism_in_words(choice)}"))
    if outcome.refit:
        parts.append(Text("refit    trained again on train + val; what follows is of that net"))
    parts += unseen_lines(outcome)
    return Group(*parts)


def unseen_lines(outcome: Outcome) -> list[Text]:
    """What the sets say that nothing was chosen on."""
    arm = outcome.choice.row.arm
    lines = [
        _unseen_line(row, outcome.gains.get(row.split))
        for row in outcome.rows
        if row.split != "val" and row.arm == arm
    ]
    if outcome.test_cells > 1:
        lines.append(Text(f"test     {looks_in_words(outcome.test_cells)}"))
    return lines


def first_look(cells: int) -> str:
    """Whether what was read of test is this sweep's only reading: a sentence."""
    if cells > 1:
        return f"Not the first reading: {looks_in_words(cells)}."
    return "Read once, after the choice."


def looks_in_words(cells: int) -> str:
    """What readings beyond the first mean."""
    return (
        f"this sweep has looked at the test split for {cells} cells: whoever chooses among them by "
        "what they saw there has no unseen images left"
    )


def _board(val: Sequence[Row], choice: Choice, limit: int) -> Table:
    board = Table(
        title=f"Best of {len(val)} rows, on val (n={val[0].n})",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for name in ("variant", "train", "test", "arm", "top-1 %", "top-5 %", "GMACs", "M params"):
        board.add_column(name, justify="left" if name in ("variant", "arm") else "right")
    shown = list(val[:limit])
    if choice.row not in shown:
        shown.append(choice.row)
    for row in shown:
        board.add_row(
            row.variant,
            str(row.train_res),
            str(row.test_res),
            row.arm,
            f"{100 * row.top1:.1f}",
            f"{100 * row.top5:.1f}",
            f"{row.gmacs:.3g}",
            f"{row.params_m:.2f}",
            style="bold green" if row == choice.row else "",
        )
    return board


def _arms(val: Sequence[Row]) -> Table:
    """Each arm over all cells: what it adds to the same trunk on the same pixels, untuned."""
    count = len({r.cell for r in val})
    cells = f"{count} cells" if count > 1 else "one cell"
    table = Table(
        title=f"Arms over {cells}, on val (n={val[0].n}); seconds of a cell",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    untuned = {r.cell: r.top1 for r in val if r.arm == UNTUNED}
    table.add_column("arm")
    for name in ("mean top-1 %", "best top-1 %", "seconds"):
        table.add_column(name, justify="right")
    if untuned:
        table.add_column(f"on {UNTUNED}", justify="right")
        table.add_column("better/worse", justify="right")
    for arm in sorted({r.arm for r in val}, key=rank):
        own = [r for r in val if r.arm == arm]
        columns = [
            arm,
            f"{100 * sum(r.top1 for r in own) / len(own):.1f}",
            f"{100 * max(r.top1 for r in own):.1f}",
            f"{sum(r.seconds for r in own) / len(own):.1f}",
        ]
        if untuned:
            gains = [100 * (r.top1 - untuned[r.cell]) for r in own]
            columns.append(f"{sum(gains) / len(gains):+.1f}" if arm != UNTUNED else "")
            better, worse = sum(g > 0 for g in gains), sum(g < 0 for g in gains)
            columns.append(f"{better}/{worse}" if arm != UNTUNED else "")
        table.add_row(*columns)
    return table


COSTS = {"gmacs": "GMACs", "params_m": "M params", "memory_mb": "MB", "latency_ms": "ms"}


def fronts(rows: Sequence[Row], costs: Sequence[str], chosen: Row) -> Table:
    """The rows that are on the Pareto front of top-1 and any of the costs, cheapest first."""
    on = {cost: front(rows, cost) for cost in costs}
    shown = {r for found in on.values() for r in found} | {chosen}
    n = chosen.n
    table = Table(
        title=f"Pareto fronts, top-1 on val (n={n}) against cost: * is on that front",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),  # nine columns in 80 characters
    )
    for name in ("variant", "train", "test", "arm", "top-1 %", *(COSTS[cost] for cost in costs)):
        table.add_column(name, justify="left" if name in ("variant", "arm") else "right")
    for row in sorted(shown, key=lambda r: (r.gmacs, r.hits1, rank(r.arm))):
        values = (f"{rounded(getattr(row, c))}{' *' if row in on[c] else '  '}" for c in costs)
        table.add_row(
            row.variant,
            str(row.train_res),
            str(row.test_res),
            row.arm,
            f"{100 * row.top1:.1f}",
            *values,
            style="bold green" if row == chosen else "",
        )
    return table


def _published(compared: Sequence[Comparison]) -> Table:
    table = Table(
        title="Beside the published FixEfficientNet figures (top-1 % on ImageNet val)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("variant")
    for name in ("train", "test", "published", "measured", "gap"):
        table.add_column(name, justify="right")
    table.add_column("arm")
    table.add_column("measured on")
    for one in compared:
        table.add_row(
            one.published.variant,
            str(one.published.train_res),
            str(one.published.test_res),
            f"{one.published.fix_top1:.1f}",
            f"{one.top1:.1f}",
            f"{one.gap:+.1f}",
            one.row.arm,
            f"{one.row.split}, n={one.row.n}",
        )
    return table


def optimism_in_words(choice: Choice) -> str:
    return (
        f"choosing the best of so many rows flatters its val top-1 by about "
        f"{max(0.0, 100 * choice.optimism):.1f} points"
    )


def _unseen_line(row: Row, gain: Gain | None) -> Text:
    low, high = wilson(row.hits1, row.n)
    words = (
        f"{row.split:8} top-1 {100 * row.top1:.1f} % (n={row.n}, 95 % interval {100 * low:.1f} to "
        f"{100 * high:.1f}), top-5 {100 * row.top5:.1f} %; "
    )
    return Text(words + (gain_in_words(gain) if gain else "nothing was tuned"))


def gain_in_words(gain: Gain) -> str:
    """With the standard error of the paired difference."""
    return (
        f"{100 * gain.difference:+.1f} points on the untuned trunk (paired, standard error "
        f"{100 * gain.error:.1f})"
    )
