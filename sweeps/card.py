"""The model card: what the net is, how well it does and on what, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sweeps.choice import Choice
from sweeps.leaderboard import Row
from sweeps.plan import Plan
from sweeps.printed import gain_in_words
from sweeps.unseen import Gain
from trainables import variants
from trainables.arms import ARMS, UNTUNED
from trainables.intervals import wilson


def card(plan: Plan, choice: Choice, rows: Sequence[Row], gains: Mapping[str, Gain]) -> str:
    """Markdown, with the front matter that model hubs read."""
    row = choice.row
    variant = variants.get(row.variant)
    weights = plan.weights[row.variant]
    start = "random" if weights.source == "none" else f"{variant.timm_id} ({weights.source})"
    lines = [
        "---",
        "library_name: timm",
        "pipeline_tag: image-classification",
        "tags: [image-classification, timm, fixres, efficientnet]",
        "---",
        f"# FixEfficientNet {row.variant}, {row.train_res} -> {row.test_res} px",
        "",
        f"{variant.timm_name}, trained at {row.train_res} px and tested at {row.test_res} px: "
        f"{ARMS[row.arm].words}.",
        "",
        f"- Top-1 {100 * row.top1:.1f} % on val (n = {row.n}); val chose the cell among "
        f"{len([r for r in rows if r.split == 'val'])} rows and the classifier among "
        f"{max(1, row.head_tried)} (setting, epoch) pairs. The former flatters the best "
        f"row by about {max(0.0, 100 * choice.optimism):.1f} points (choosing again on halves of "
        "val), the latter adds to it.",
        f"- {row.params_m:.2f} M parameters, {row.gmacs:.3g} GMACs an image.",
        f"- {len(plan.classes)} classes, in labels.txt and config.json.",
        "",
        "## On images that nothing was chosen on",
        "",
        *_unseen_table(rows),
        *([""] if gains else []),
        *(f"- {name}: {gain_in_words(gain)}" for name, gain in gains.items()),
        "",
        "Read once, after the choice. A set with fewer classes is scored among its own. Untuned is "
        f"the same trunk on the same pixels (arm {UNTUNED}).",
        "",
        "## Use",
        "",
        "```python",
        "import timm, torch",
        "from PIL import Image",
        "",
        'model = timm.create_model("local-dir:PATH/TO/THIS/FOLDER", pretrained=True).eval()',
        "config = timm.data.resolve_model_data_config(model, use_test_size=True)",
        "transform = timm.data.create_transform(**config)",
        'logits = model(transform(Image.open("image.jpg").convert("RGB"))[None])',
        'print(model.pretrained_cfg["label_names"][logits.argmax().item()])',
        "```",
        "",
        "## Why this one",
        "",
        choice.reason,
        "",
        "## All cells",
        "",
        f"Top-1 on val in % (n = {row.n}), for each arm.",
        "",
        *_table(rows, plan.spec.fix.arms),
        "",
        *(f"- {ARMS[arm].name}: {ARMS[arm].words}" for arm in plan.spec.fix.arms),
        "",
        "## Origin",
        "",
        f"- Weights at the start: {start}.",
        f"- Images: {', '.join(f'{n} {s}' for s, n in plan.counts.items())} "
        f"(fingerprint {plan.images}).",
        f"- Trunk {row.trunk}, {row.trunk_epochs} epochs; cell {row.cell}; seed "
        f"{plan.spec.run.seed}.",
        "- Method: Touvron et al., Fixing the train-test resolution discrepancy "
        "(arXiv:1906.06423; EfficientNet: arXiv:2003.08237).",
        "",
    ]
    return "\n".join(lines)


def _unseen_table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| set | arm | top-1 % | 95 % interval | top-5 % | n |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        if row.split != "val":
            low, high = wilson(row.hits1, row.n)
            lines.append(
                f"| {row.split} | {row.arm} | {100 * row.top1:.1f} | {100 * low:.1f} to "
                f"{100 * high:.1f} | {100 * row.top5:.1f} | {row.n} |"
            )
    return lines


def _table(rows: Sequence[Row], arms: Sequence[str]) -> list[str]:
    cells: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.split == "val":
            cells.setdefault(row.cell, {})[row.arm] = row
    lines = [
        f"| variant | train px | test px | epochs | {' | '.join(arms)} | GMACs |",
        f"|---|---:|---:|---:|{'---:|' * len(arms)}---:|",
    ]
    for by_arm in cells.values():
        first = next(iter(by_arm.values()))
        shares = " | ".join(f"{100 * by_arm[arm].top1:.1f}" for arm in arms)
        lines.append(
            f"| {first.variant} | {first.train_res} | {first.test_res} | {first.trunk_epochs} "
            f"| {shares} | {first.gmacs:.3g} |"
        )
    return lines
