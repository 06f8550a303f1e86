"""Render the report of a sweep: one HTML page that refers to no other file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from sweeps.events.failures import failures_in_words
from sweeps.final_model.calibration import ECE_IN_WORDS, temperature_in_words
from sweeps.final_model.outcome import Outcome
from sweeps.final_model.wording import (
    flattered_rows_in_words,
    optimism_in_words,
    reading_sentence,
    served_latency_in_words,
    untouched_in_words,
    val_in_words,
)
from sweeps.output.location import BOARD
from sweeps.planning.cell import crop_in_words
from sweeps.planning.class_balance import class_balance_in_words
from sweeps.planning.options.touched import arm_in_words
from sweeps.planning.plan import Plan
from sweeps.planning.serving.limits import limits_in_words
from sweeps.planning.units import duration, three_digits
from sweeps.report.chosen_net.class_tables import (
    MAX_CLASSES,
    calibration_table,
    class_table,
    confusion_table,
)
from sweeps.report.heatmap import bears_numbers
from sweeps.report.ledger import Ledger
from sweeps.report.style import sentence_case
from sweeps.report.svg import inline_svg
from sweeps.report.tables import (
    Table,
    count_of,
    held_out_table,
    images_table,
    interval,
    leaderboard_table,
    percent,
    published_table,
    rows_left_out,
    signed,
    times_table,
)
from sweeps.selection.leaderboard import Row, crossfit_note
from sweeps.selection.published_comparison import Comparison
from trainables.evaluation.class_metrics import IN_WORDS, count_by_class
from trainables.fixres.arms import UNTUNED
from trainables.fixres.predictions import Predictions
from trainables.models import variants

_TEMPLATE = Path(__file__).with_name("template.html")
# The report names no more classes than this.
_MAX_NAMED_CLASSES = 12


@dataclass(frozen=True, kw_only=True)
class KeyFigure:
    """A number that the top of the page shows."""

    name: str
    value: str
    unit: str
    note: str


@dataclass(frozen=True, kw_only=True)
class InlineFigure:
    """A figure on the page, with its caption."""

    svg: Markup
    caption: str


def render_page(
    plan: Plan,
    outcome: Outcome,
    ledger: Ledger,
    figures: Mapping[str, Figure],
    compared: Sequence[Comparison],
    versions: Mapping[str, str],
    command: str,
    latency: str,
) -> str:
    """Render the page as HTML; the same arguments give the same bytes.

    Args:
        figures: by name, some of "heatmap", "pareto", "curves", "arms", "confusions",
            "reliability" and "spending"; a section without its figure is left out.
        compared: comparisons with the published figures; without any, that section is left out.
        versions: package versions by name.
        command: the command that repeats the sweep.
        latency: what latencies were measured with, in words.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    captions = _captions(plan, outcome, ledger)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=_title(outcome),
        what=_arm_in_words(outcome),
        reason=outcome.choice.reason,
        failures=failures_in_words(outcome.failures) if outcome.failures else "",
        budget=outcome.budgeted.in_words if outcome.budgeted else "",
        screen=outcome.screen.in_words if outcome.screen else "",
        early_end=outcome.early_end,
        cascade=outcome.cascade,
        numbers=_key_figures(plan, outcome, latency),
        figures={
            name: InlineFigure(
                svg=inline_svg(name, figure, captions[name][0]), caption=captions[name][1]
            )
            for name, figure in figures.items()
        },
        published=published_table(compared),
        published_on=sorted({f"{c.row.split}, n = {c.row.n}" for c in compared}),
        held_out=held_out_table(outcome),
        held_out_note=_held_out_note(outcome),
        by_class=[class_table(p, plan.classes) for p in outcome.predictions],
        confusions=_confusion_tables(plan, outcome),
        class_notes=[_class_note(p, plan) for p in outcome.predictions],
        calibration=calibration_table(outcome.calibration) if outcome.calibration else None,
        temperature=temperature_in_words(outcome.calibration),
        ece_in_words=ECE_IN_WORDS,
        times=times_table(ledger),
        images=images_table(ledger),
        rows=leaderboard_table(outcome, plan.search.varied if plan.spec.trunks.epochs else ()),
        rows_summary=_rows_summary(outcome),
        rows_note=_rows_note(outcome, latency),
        command=command.replace(" --", " \\\n    --"),
        facts=_facts(plan, outcome, versions, latency),
    )


# --- words --------------------------------------------------------------------------------------


def _title(outcome: Outcome) -> str:
    row, test = outcome.choice.row, outcome.test
    return _no_break(
        f"{_net_in_words(row.variant)}, {_trained_in_words(row)} and served at {row.test_res} "
        f"px (crop {crop_in_words(row.crop_pct)}), has {percent(test.top1)} % of test right "
        f"(top-1, n = {test.n})"
    )


def _net_in_words(variant: str) -> str:
    found = variants.get(variant)
    return f"EfficientNet {variant}" if found.is_of_family else found.timm_name


def _trained_in_words(row: Row) -> str:
    if row.untouched:
        return "not fine-tuned"
    first = f"{row.parent_res} px and then at " if row.parent_res else ""
    return f"trained at {first}{row.train_res} px"


def _no_break(words: str) -> str:
    """Keep numbers on one line with their units, and with the "n =" before them."""
    return re.sub("(?<=[0-9n]) (?=px|%|=)|(?<=n =) ", "\N{NO-BREAK SPACE}", words)


def _arm_in_words(outcome: Outcome) -> str:
    row = outcome.choice.row
    words = f"Arm {row.arm}: {arm_in_words(row.arm, row.variant)}."
    if outcome.refit:
        words += (
            " Trained again on train + val with the chosen configuration: what is said of test and "
            "of further sets is of that net, what is said of val of the one before it."
        )
    return words


def _key_figures(plan: Plan, outcome: Outcome, latency: str) -> list[KeyFigure]:
    row, test = outcome.choice.row, outcome.test
    gain = outcome.gains.get("test")
    figures = [
        KeyFigure(
            name="Top-1 on test",
            value=percent(test.top1),
            unit="%",
            note=_no_break(f"95 % interval {interval(test)} (Wilson), n = {test.n}"),
        )
    ]
    if outcome.choice.metric != "top1":
        figures.append(
            KeyFigure(
                name=f"{sentence_case(IN_WORDS[outcome.choice.metric])} on test",
                value=percent(test.value(outcome.choice.metric)),
                unit="%",
                note=_no_break(f"by which val chose; n = {test.n}"),
            )
        )
    if gain is not None:
        note = f"on test, image by image; standard error {percent(gain.error)}"
        value = signed(100 * gain.difference)
        figures.append(KeyFigure(name="Gain on the untuned", value=value, unit="points", note=note))
    figures += _above_untouched(outcome)
    metric = outcome.choice.metric
    figures.append(
        KeyFigure(
            name=f"{sentence_case(IN_WORDS[metric])} on val",
            value=percent(row.value(metric)),
            unit="%",
            note=_no_break(_val_note(outcome)),
        )
    )
    figures.append(KeyFigure(name="Work", value=f"{row.gmacs:.3g}", unit="GMACs", note="an image"))
    figures.append(KeyFigure(name="Size", value=f"{row.params_m:.2f}", unit="M", note="parameters"))
    if row.latency_ms is not None:
        note = f"median; {latency}"
        figures.append(
            KeyFigure(name="Latency", value=f"{row.latency_ms:.3g}", unit="ms", note=note)
        )
    if outcome.served_latency is not None:
        note = served_latency_in_words(outcome, plan.spec.serving)
        value = f"{outcome.served_latency.latency.latency_ms:.3g}"
        figures.append(KeyFigure(name="Latency of model.onnx", value=value, unit="ms", note=note))
    if outcome.int8 is not None:
        value = percent(outcome.int8.test.top1)
        note = outcome.int8.in_words().replace("n=", "n = ")
        figures.append(
            KeyFigure(name="Top-1 of model-int8.onnx on test", value=value, unit="%", note=note)
        )
    note = "one image, float32, without workspaces"
    figures.append(
        KeyFigure(name="Memory", value=three_digits(row.memory_mb), unit="MB", note=note)
    )
    return figures


def _above_untouched(outcome: Outcome) -> Iterator[KeyFigure]:
    """Say what fine-tuning gains on test; on val, which flatters it, where test does not tell."""
    row, on_test = outcome.choice.row, outcome.gains_on_untouched.get("test")
    if on_test is not None:
        split, gain, error = "on test", on_test.difference, on_test.error
    elif row.on_untouched is not None:
        split, gain, error = "val", row.on_untouched, row.on_untouched_error or 0.0
    else:
        return
    note = f"{split}, image by image; standard error {percent(error)}"
    value = signed(100 * gain)
    yield KeyFigure(name="Above the best untouched", value=value, unit="points", note=note)


def _val_note(outcome: Outcome) -> str:
    return f"{val_in_words(outcome)}; {optimism_in_words(outcome.choice)}".replace("n=", "n = ")


def _captions(plan: Plan, outcome: Outcome, ledger: Ledger) -> dict[str, tuple[str, str]]:
    """Describe each figure: the text for those who cannot see it, and the caption."""
    row = outcome.choice.row
    n = f"n = {row.n}{crossfit_note(outcome.rows)}"
    words = IN_WORDS[outcome.choice.metric]
    capital = sentence_case(words)
    val = f"{percent(row.value(outcome.choice.metric))} % on val ({n})"
    choice = f"{row.label}, arm {row.arm}"
    numbered = bears_numbers(plan, row)
    crops = " Of several crop ratios the best is shown" if len(plan.grid.crop_pct) > 1 else ""
    crops += (", and which it is." if numbered else ".") if crops else ""
    if plan.has_untouched:
        crops += (
            " Untouched: the net as its weights come, not fine-tuned, a classifier fitted on its "
            "features."
        )
    best = "Bold" if numbered else "A dot"
    mark = "A number of epochs under a value" if numbered else "A cross in its place"
    cut = f" {mark} marks a trunk that was cut." if ledger.cut else ""
    return {
        "heatmap": (
            f"Heat maps of {words} on val over train and test resolution. Framed: {choice}, {val}.",
            f"{capital} on val ({n}) over train and test resolution, as trained and after the "
            f"adaptation to the test resolution. {best}: the best test resolution of a row. "
            f"Framed: the choice.{crops}{cut}"
            f"{flattered_rows_in_words(outcome.rows, sentence=True)}",
        ),
        "pareto": (
            f"{capital} on val against the costs of serving. Ringed: {choice}, {val}.",
            "Each point is a cell and an arm; on the stepped line nothing is both better and "
            f"cheaper. Limits asked for: {limits_in_words(plan.spec.serving)}.",
        ),
        "curves": (
            f"{capital} on val of {count_of(ledger.trunks, 'trunk')} over the epochs.",
            f"{count_of(ledger.trunks, 'trunk')}, {ledger.cut or 'none'} cut by ASHA. {capital} "
            "is that at the best of the trunk's test resolutions, on val, before any adaptation.",
        ),
        "arms": (
            f"What each arm gains on the trunk untuned, over {count_of(ledger.cells, 'cell')}.",
            f"Untuned is the same trunk at the same resolution and crop (arm {UNTUNED}). A mean "
            "over cells hides where the gains are: the dots show it.",
        ),
        "confusions": (
            "Matrices of the chosen net's confusions on val and test, in images.",
            "The chosen net on val and on test: numbers are images, colours their shares of the "
            f"class. Of more than {MAX_CLASSES} classes those of the most frequent confusions "
            "are shown.",
        ),
        "reliability": (
            "Share of right ones over confidence, on val and test.",
            "The chosen net on val and on test, in bins of equally many images, with 95 % "
            "intervals (Wilson). Below the dashed line it is surer than it is right.",
        ),
        "spending": (
            f"Time of trials: {duration(ledger.spent_s)} spent, {duration(ledger.alone_s)} "
            "estimated for one trial a cell.",
            "Without sharing each cell would train a trunk of its own, by the same hyperparameters "
            "and under the same cuts, and run the net anew for each classifier setting and epoch "
            "that was tried. Estimated from the times of this sweep's own epochs and passes.",
        ),
    }


def _confusion_tables(plan: Plan, outcome: Outcome) -> list[Table]:
    tables = [confusion_table(p, plan.classes) for p in outcome.predictions]
    return [table for table in tables if table is not None]


def _class_note(predictions: Predictions, plan: Plan) -> str:
    """Say of which images a table of classes is, and how many of them it shows."""
    counts = count_by_class(predictions.labels, predictions.predicted, len(plan.classes))
    occurring = int((counts.images > 0).sum())
    shown = f"the worst {MAX_CLASSES} of {occurring:,} classes" if occurring > MAX_CLASSES else ""
    words = [
        f"On {predictions.split} (n = {len(predictions.labels):,})",
        f"balanced accuracy {percent(float(counts.value('balanced_accuracy')))} %",
        f"macro-F1 {percent(float(counts.value('macro_f1')))} %",
    ]
    return "; ".join([*words, *([shown] if shown else [])]) + "."


def _held_out_note(outcome: Outcome) -> str:
    return (
        f"{reading_sentence(outcome.test_cells)} A set with fewer classes is scored among its own. "
        f"Untuned is the same trunk at the same resolution and crop (arm {UNTUNED}); gains are of "
        f"top-1, and paired, image by image. {untouched_in_words(outcome)}"
    ).rstrip()


def _rows_note(outcome: Outcome, latency: str) -> str:
    """Say what the table leaves out, and what its latencies are; "" where there is neither."""
    notes = []
    if left_out := rows_left_out(outcome):
        notes.append(
            f"The best rows of val; {left_out:,} lower ones are left out here. All "
            f"{len(outcome.rows):,} are in {BOARD}, beside this page."
        )
    if outcome.choice.row.latency_ms is not None:
        notes.append(
            f"ms is the median time of a request, images/s that of large batches: {latency}."
        )
    return " ".join(notes)


def _rows_summary(outcome: Outcome) -> str:
    """Say how many rows the leaderboard shows, of how many."""
    total, left_out = len(outcome.rows), rows_left_out(outcome)
    return f"The best {total - left_out:,} of {total:,} rows" if left_out else f"{total:,} rows"


# --- facts ---------------------------------------------------------------------------------------


def _facts(
    plan: Plan, outcome: Outcome, versions: Mapping[str, str], latency: str
) -> dict[str, str]:
    """List what identifies the sweep and is needed to repeat it."""
    row = outcome.choice.row
    shown = ", ".join(plan.classes[:_MAX_NAMED_CLASSES])
    more = len(plan.classes) - _MAX_NAMED_CLASSES
    return {
        "Images": f"{plan.name}: {', '.join(f'{n:,} {s}' for s, n in plan.counts.items())}; "
        f"fingerprint {plan.images_digest}",
        **({"Splits": plan.splits} if plan.splits else {}),
        **({"Near-duplicates": plan.near_duplicates} if plan.near_duplicates else {}),
        "Classes": f"{len(plan.classes)}: {shown}" + (f" and {more:,} more" if more > 0 else ""),
        **({"Class balance": balance} if (balance := class_balance_in_words(plan)) else {}),
        "Weights": "; ".join(_start_in_words(plan, variant) for variant in plan.spec.grid.variants),
        **({"Search": plan.search.in_words} if plan.spec.trunks.epochs else {}),
        "Seed": f"{plan.spec.run.seed}",
        "Chosen": f"trunk {row.trunk} ({row.trunk_epochs} epochs), cell {row.cell}",
        **({} if row.latency_ms is None else {"Latency": latency}),
        "Versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "Method": "Touvron et al., Fixing the train-test resolution discrepancy, arXiv:1906.06423; "
        "of EfficientNets: arXiv:2003.08237",
    }


def _start_in_words(plan: Plan, variant: str) -> str:
    weights = plan.weights[variant]
    if weights.source == "none":
        return f"{variant}: random start"
    timm_id = variants.get(variant).timm_id
    return f"{variant}: {timm_id} ({weights.source}), digest {weights.digest[:16]}"
