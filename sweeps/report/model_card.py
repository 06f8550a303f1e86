"""Write the model card: what the model is, how it scores on which images, and its origin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from sweeps.events.failures import failures_in_words
from sweeps.final_model.calibration import ECE_IN_WORDS, temperature_in_words
from sweeps.final_model.int8_net import INT8_FILE
from sweeps.final_model.outcome import Outcome
from sweeps.final_model.wording import (
    flattered_rows_in_words,
    gains_in_words,
    on_untouched_in_words,
    optimism_in_words,
    reading_sentence,
    row_latency_in_words,
    served_latency_in_words,
    untouched_in_words,
    val_in_words,
)
from sweeps.planning.cell import crop_in_words
from sweeps.planning.class_balance import class_balance_in_words
from sweeps.planning.options.touched import arm_in_words
from sweeps.planning.plan import Plan
from sweeps.planning.search import values_in_words
from sweeps.planning.serving.limits import limits_in_words
from sweeps.planning.units import three_digits
from sweeps.report.style import sentence_case
from sweeps.report.tables import class_metrics
from sweeps.selection.choice import eligible
from sweeps.selection.leaderboard import Row, crossfit_note
from trainables.evaluation.class_metrics import IN_WORDS, Metric
from trainables.evaluation.confidence import wilson
from trainables.evaluation.kept_classifier import other_orders
from trainables.fixres.arms import ARMS, UNTUNED, rank
from trainables.models import variants
from trainables.transforms.resolution import resize_side

CLASSES_SHOWN = 10  # first and last


def model_card(plan: Plan, outcome: Outcome, versions: Mapping[str, str], picture: str) -> str:
    """Write the card as Markdown, with the front matter that model hubs read.

    Args:
        versions: package versions by name.
        picture: the name of the heat map's file, which lies beside the card.
    """
    row = outcome.choice.row
    capital = sentence_case(IN_WORDS[outcome.choice.metric])
    parts = [
        _front_matter(plan, outcome),
        f"# {_name(row.variant)}, {row.train_in_words} -> {row.test_res} px, crop "
        f"{crop_in_words(row.crop_pct)}",
        _what_it_is(plan, outcome),
        "## On images that nothing was chosen on",
        _on_held_out_sets(outcome),
        "## How sure it is",
        _calibration(outcome),
        "## Classes",
        _class_map(plan.classes),
        "## Use",
        _use(row),
        *([USE_IN_OPENVINO] if plan.spec.output.openvino else []),
        _pixels(plan),
        "## Why this one",
        outcome.choice.reason,
        *([f"{failures_in_words(outcome.failures)}."] if outcome.failures else []),
        *([f"Screen: {outcome.screen.in_words}."] if outcome.screen else []),
        *([f"Early end: {outcome.early_end}."] if outcome.early_end else []),
        *([f"Cascade: {outcome.cascade}."] if outcome.cascade else []),
        *([f"Budget: {outcome.budgeted.in_words}."] if outcome.budgeted else []),
        f"Limits asked for: {limits_in_words(plan.spec.serving)}.",
        f"![{capital} over train and test resolution, before and after]({picture})",
        "## All cells",
        f"{capital} on val in % (n = {row.n}{crossfit_note(outcome.rows)}), for each arm."
        f"{flattered_rows_in_words(outcome.rows, sentence=True)}",
        "\n".join(_cells_table(outcome.rows, plan.spec.fix.arms, outcome.choice.metric)),
        "\n".join(f"- {ARMS[arm].name}: {ARMS[arm].words}" for arm in plan.spec.fix.arms),
        "## Origin",
        _origin(plan, outcome, versions),
    ]
    return "\n\n".join(parts) + "\n"


_LOGITS = 'logits = model(transform(Image.open("image.jpg").convert("RGB"))[None])'
_MIRRORED_LOGITS = """x = transform(Image.open("image.jpg").convert("RGB"))[None]
logits = (model(x) + model(x.flip(-1))) / 2  # timm's form has the net alone, without the mirror"""
USE = """```python
import timm, torch
from PIL import Image

model = timm.create_model("local-dir:PATH/TO/THIS/FOLDER", pretrained=True).eval()
config = timm.data.resolve_model_data_config(model, use_test_size=True)
transform = timm.data.create_transform(**config)
logits = model(transform(Image.open("image.jpg").convert("RGB"))[None])
print(model.pretrained_cfg["label_names"][logits.argmax().item()])
```

The same net is in `model.onnx` and `model.pt2` (normalised pixels in, logits out; what normalises
them is in the ONNX file's metadata), and the folder is an MLflow model that takes image files:

```python
import mlflow

model = mlflow.pyfunc.load_model("PATH/TO/THIS/FOLDER")
print(model.predict({"image": [open("image.jpg", "rb").read()]}))  # label, probability, ...
```"""


USE_IN_OPENVINO = """For OpenVINO it is in `model.xml`. Ask for float32 when it is compiled: on
CPUs with bfloat16 in hardware OpenVINO takes that by itself, and logits move by percents.

```python
import openvino

net = openvino.Core().compile_model(
    "PATH/TO/THIS/FOLDER/model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
)
logits = net([pixels])["logits"]  # normalised pixels (N, 3, R, R) float32 in, as for model.onnx
```"""


def _use(row: Row) -> str:
    """Show how the forms are opened; timm knows no net that averages over a mirror image."""
    return USE.replace(_LOGITS, _MIRRORED_LOGITS) if ARMS[row.arm].mirrors else USE


def _pixels(plan: Plan) -> str:
    """Say what the sweep did to images before the transform, which the MLflow model does too."""
    words = [
        f"Images with a short side above {plan.spec.images.cache_side:,} px were first reduced to "
        "it, as the MLflow model does; timm's transform alone makes slightly other pixels of them."
    ]
    if plan.whites:
        kinds = ", ".join(f"{white:,} in {kind}" for kind, white in plan.whites.items())
        words.append(
            f"Samples of more than eight bits were scaled so that white is {kinds}; Pillow's own "
            "conversion does not."
        )
    return " ".join(words)


def _front_matter(plan: Plan, outcome: Outcome) -> str:
    """Write what the Hugging Face hub reads, in YAML; every JSON string is a YAML string."""
    row = outcome.choice.row
    variant = variants.get(row.variant)
    lines = [
        "---",
        "library_name: timm",
        "pipeline_tag: image-classification",
        f"tags: [image-classification, timm, fixres{', efficientnet' * variant.is_of_family}]",
        "metrics: [accuracy]",
    ]
    if plan.weights[row.variant].source != "none":
        lines += [f"base_model: timm/{variant.timm_id}", "base_model_relation: finetune"]
    lines += ["model-index:", f"- name: {variant.timm_name}-fixres", "  results:"]
    for result in outcome.rows:
        if result.split != "val" and result.arm == row.arm:
            name = json.dumps(f"{plan.name}, {result.split} (n = {result.n})")
            split = json.dumps(result.split)
            lines += [
                "  - task: {type: image-classification}",
                f"    dataset: {{name: {name}, type: imagefolder, split: {split}}}",
                "    metrics:",
                f"    - {{type: accuracy, value: {result.top1:.4f}, name: top-1}}",
            ]
    return "\n".join([*lines, "---"])


def _name(variant: str) -> str:
    """Name a fixed net: the family as its authors do, others as timm does."""
    found = variants.get(variant)
    return f"FixEfficientNet {variant}" if found.is_of_family else f"FixRes {found.timm_name}"


def _trained(row: Row) -> str:
    return "not fine-tuned" if row.untouched else f"trained at {row.train_res} px"


def _what_it_is(plan: Plan, outcome: Outcome) -> str:
    row, choice = outcome.choice.row, outcome.choice
    variant = variants.get(row.variant)
    lines = [
        f"{variant.timm_name}, {_trained(row)} and tested at {row.test_res} px, "
        f"crop ratio {crop_in_words(row.crop_pct)} (short side resized to "
        f"{resize_side(row.test_res, row.crop_pct)} px): {arm_in_words(row.arm, row.variant)}.",
        "",
        f"- On val: {val_in_words(outcome)}. Val chose the cell among "
        f"{len(eligible(outcome.rows))} rows and the classifier among "
        f"{max(1, row.head_tried)} (setting, epoch) pairs; {optimism_in_words(choice)} (choosing "
        "again on halves of val).",
        *([f"- {above}."] if (above := on_untouched_in_words(row)) else []),
        f"- {row.params_m:.2f} M parameters, {row.gmacs:.3g} GMACs an image; "
        f"{three_digits(row.memory_mb)} MB at its peak (float32, without workspaces).",
        f"- {len(plan.classes)} classes, in labels.txt and config.json.",
    ]
    row_latency = row_latency_in_words(outcome)
    served_latency = served_latency_in_words(outcome, plan.spec.serving)
    if row_latency:
        lines.append(f"- Latency that it was chosen with: {row_latency}.")
    if served_latency:
        lines.append(f"- Latency of `model.onnx` itself, once exported: {served_latency}.")
    if outcome.int8 is not None:
        lines.append(f"- The same net in eight bits, `{INT8_FILE}`: {outcome.int8.in_words()}.")
    if outcome.refit:
        lines.append(
            "- **Trained again on train + val** with the chosen configuration, and adapted on "
            "both. The figures on val are those of the net before: nothing is left to measure "
            "this one on but the sets below."
        )
    return "\n".join(lines)


def _class_map(classes: Sequence[str]) -> str:
    """Say which output is which class, and which programs would number the classes otherwise."""
    numbered = [f"{number} {name}" for number, name in enumerate(classes)]
    if len(numbered) > 2 * CLASSES_SHOWN:
        numbered = [*numbered[:CLASSES_SHOWN], "...", *numbered[-CLASSES_SHOWN:]]
    lines = [
        f"The outputs, counted from 0: {', '.join(numbered)}. Output k is line k + 1 of labels.txt."
    ]
    readers = {
        "natural": "timm's readers of class folders (give them `--class-map labels.txt`)",
        "string": "torchvision's ImageFolder",
    }
    others = [readers[order] for order in other_orders(classes)]
    if others:
        lines.append(
            f"**Other programs number these classes otherwise**, as {' and '.join(others)}: go by"
            " the names."
        )
    return " ".join(lines)


def _on_held_out_sets(outcome: Outcome) -> str:
    lines = _held_out_table(outcome.rows)
    if compared := [*dict.fromkeys([*outcome.gains, *outcome.gains_on_untouched])]:
        lines.append("")
        lines += [f"- {name}: {gains_in_words(outcome, name)}" for name in compared]
    note = (
        f"{reading_sentence(outcome.test_cells)} A set with fewer classes is scored among its own. "
        f"Untuned is the same trunk at the same resolution and crop (arm {UNTUNED}). "
    )
    return "\n".join([*lines, "", f"{note}{untouched_in_words(outcome)}".rstrip()])


def _calibration(outcome: Outcome) -> str:
    """Say where the temperature comes from, and what it does to the probabilities."""
    words = temperature_in_words(outcome.calibration)
    if outcome.calibration is None:
        return words
    lines = [
        f"{words} The MLflow model applies it to its probabilities and not to its logits; the "
        "other forms give logits alone. It is `temperature` in config.json.",
        "",
        "| set | n | cross-entropy, nats | scaled | calibration error, points | scaled |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {s.split} | {s.n} | {s.nll:.3f} | {s.scaled_nll:.3f} | {100 * s.ece:.1f} "
        f"| {100 * s.scaled_ece:.1f} |"
        for s in outcome.calibration.scores
    ]
    return "\n".join([*lines, "", ECE_IN_WORDS])


def _after(row: Row) -> str:
    """Say which trunk the row's started from; "" where it started from the weights as they come."""
    return f" after those of trunk {row.parent} at {row.parent_res} px" if row.parent else ""


def _origin(plan: Plan, outcome: Outcome, versions: Mapping[str, str]) -> str:
    row = outcome.choice.row
    weights, settings = plan.weights[row.variant], dict(row.trained_with)
    variant = variants.get(row.variant)
    start = "random" if weights.source == "none" else f"{variant.timm_id} ({weights.source})"
    return "\n".join(
        [
            f"- Weights at the start: {start}.",
            f"- Images: {plan.name}, {', '.join(f'{n} {s}' for s, n in plan.counts.items())} "
            f"(fingerprint {plan.images_digest}).",
            *([f"- Splits: {plan.splits}."] if plan.splits else []),
            *([f"- Near-duplicates: {plan.near_duplicates}."] if plan.near_duplicates else []),
            *(
                [f"- Class balance: {balance}."]
                if (balance := class_balance_in_words(plan))
                else []
            ),
            f"- Trunk {row.trunk}, {row.trunk_epochs} epochs{_after(row)}; cell {row.cell}; seed "
            f"{plan.spec.run.seed}.",
            *([f"- Trained with {values_in_words(settings, list(settings))}."] if settings else []),
            f"- Made with {', '.join(f'{name} {number}' for name, number in versions.items())}.",
            "- Method: Touvron et al., Fixing the train-test resolution discrepancy "
            "(arXiv:1906.06423; EfficientNet: arXiv:2003.08237).",
        ]
    )


def _held_out_table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| set | arm | top-1 % | 95 % interval | top-5 % | balanced accuracy % | macro-F1 % | n |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if row.split != "val":
            low, high = wilson(row.hits1, row.n)
            lines.append(
                f"| {row.split} | {row.arm} | {100 * row.top1:.1f} | {100 * low:.1f} to "
                f"{100 * high:.1f} | {100 * row.top5:.1f} | {' | '.join(class_metrics(row))} "
                f"| {row.n} |"
            )
    return lines


def _cells_table(rows: Sequence[Row], arms: Sequence[str], metric: Metric) -> list[str]:
    cells: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in rows:
        if row.split == "val":  # repeats have one mean
            same = (row.first_trunk, row.test_res, row.crop_pct)
            cells.setdefault(same if row.repeats > 1 else (row.cell,), {})[row.arm] = row
    # An untouched net has an arm that the trunks of the sweep may not have.
    arms = [*arms, *sorted({a for by_arm in cells.values() for a in by_arm} - set(arms), key=rank)]
    lines = [
        f"| variant | train px | test px | crop | epochs | {' | '.join(arms)} | GMACs |",
        f"|---|---:|---:|---:|---:|{'---:|' * len(arms)}---:|",
    ]
    for by_arm in cells.values():
        first = next(iter(by_arm.values()))
        shares = " | ".join(
            f"{100 * by_arm[arm].value(metric):.1f}" if arm in by_arm else "" for arm in arms
        )
        lines.append(
            f"| {first.variant} | {first.train_in_words} | {first.test_res} "
            f"| {crop_in_words(first.crop_pct)} | {first.trunk_epochs} | {shares} "
            f"| {first.gmacs:.3g} |"
        )
    return lines
