"""The model card: what the net is, how well it does and on what, and where it came from."""

from __future__ import annotations

from collections.abc import Sequence

from sweeps.choice import Choice
from sweeps.leaderboard import Row
from sweeps.plan import Plan
from trainables import variants
from trainables.evaluate import Score
from trainables.intervals import wilson

ARM_WORDS = {
    "none": "as trained, at the larger test resolution",
    "fix": "classifier and last batch norm adapted at the test resolution (FixRes)",
}


def card(plan: Plan, choice: Choice, test: Score, rows: Sequence[Row]) -> str:
    """Markdown, with the front matter that model hubs read."""
    row = choice.row
    variant = variants.get(row.variant)
    low, high = wilson(test.hits1, test.n)
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
        f"{ARM_WORDS[row.arm]}.",
        "",
        f"- Top-1 {100 * test.top1:.1f} % on test (n = {test.n}, 95 % interval "
        f"{100 * low:.1f} to {100 * high:.1f}), top-5 {100 * test.top5:.1f} %. The test split was "
        "read once in this sweep, for this row.",
        f"- Top-1 {100 * row.top1:.1f} % on val (n = {row.n}); val chose the cell among "
        f"{len([r for r in rows if r.split == 'val'])} rows and the head among "
        f"{max(1, row.head_settings)} settings, so expect a little less of new images.",
        f"- {row.params_m:.2f} M parameters, {row.gmacs:.3g} GMACs an image.",
        f"- {len(plan.classes)} classes, in labels.txt and config.json.",
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
        "Top-1 on val in %, before and after the fix.",
        "",
        *_table(rows),
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


def _table(rows: Sequence[Row]) -> list[str]:
    val = [r for r in rows if r.split == "val"]
    fixed = {(r.cell): r for r in val if r.arm == "fix"}
    lines = [
        "| variant | train px | test px | epochs | before | after | n | GMACs |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in val:
        if row.arm == "none":
            after = fixed.get(row.cell)
            lines.append(
                f"| {row.variant} | {row.train_res} | {row.test_res} | {row.trunk_epochs} "
                f"| {100 * row.top1:.1f} | {100 * after.top1 if after else float('nan'):.1f} "
                f"| {row.n} | {row.gmacs:.3g} |"
            )
    return lines
