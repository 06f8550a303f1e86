"""The report of a sweep: one HTML page that needs nothing but itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from sweeps.final_model.outcome import Outcome
from sweeps.planning.plan import Plan
from sweeps.planning.serving_limits import asked, rounded
from sweeps.report.ledger import Ledger, duration
from sweeps.report.spending_plot import price
from sweeps.report.svg import inline
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row
from sweeps.selection.published_comparison import Comparison
from sweeps.terminal.result_tables import first_look
from trainables.evaluation.confidence import wilson
from trainables.fixres.arms import ARMS, UNTUNED, rank
from trainables.models import variants

_TEMPLATE = Path(__file__).with_name("template.html")
_MOST_CLASSES = 12  # named


@dataclass(frozen=True, kw_only=True)
class Number:
    """A key number."""

    name: str
    value: str
    unit: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Column:
    name: str
    number: bool = True  # set to the right, and sorted as one


@dataclass(frozen=True, kw_only=True)
class Line:
    cells: tuple[str, ...]
    strong: bool = False  # the chosen row, a sum


@dataclass(frozen=True, kw_only=True)
class Table:
    name: str  # for those who hear it
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure on the page."""

    svg: Markup
    caption: str


def page(
    plan: Plan,
    outcome: Outcome,
    ledger: Ledger,
    figures: Mapping[str, Figure],
    compared: Sequence[Comparison],
    versions: Mapping[str, str],
    command: str,
    device: str,
) -> str:
    """The page; the same arguments give the same bytes.

    Args:
        figures: by name, of "heatmap", "pareto", "curves", "arms" and "spending"; a section whose
            figure is left out is left out.
        compared: beside the published figures; none: that section is left out.
        versions: of packages.
        command: that repeats the sweep.
        device: that latency was measured on, in words.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    captions = _captions(plan, outcome, ledger)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=_title(outcome),
        what=_what(outcome),
        reason=outcome.choice.reason,
        numbers=_numbers(outcome, device),
        figures={
            name: Drawn(svg=inline(name, figure, captions[name][0]), caption=captions[name][1])
            for name, figure in figures.items()
        },
        published=_published(compared),
        published_on=sorted({f"{c.row.split}, n = {c.row.n}" for c in compared}),
        unseen=_unseen(outcome),
        unseen_note=_unseen_note(outcome),
        times=_times(ledger),
        images=_images(ledger),
        rows=_rows(outcome),
        command=command.replace(" --", " \\\n    --"),
        facts=_facts(plan, outcome, versions, device),
    )


# --- words --------------------------------------------------------------------------------------


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")


def _interval(row: Row) -> str:
    low, high = wilson(row.hits1, row.n)
    return f"{_percent(low)} to {_percent(high)}"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def _title(outcome: Outcome) -> str:
    row, test = outcome.choice.row, outcome.test
    return _close(
        f"EfficientNet {row.variant}, trained at {row.train_res} px and served at {row.test_res} "
        f"px, has {_percent(test.top1)} % of test right (top-1, n = {test.n})"
    )


def _close(words: str) -> str:
    """Numbers on one line with their units, and with what they are the number of."""
    return re.sub("(?<=[0-9n]) (?=px|%|=)|(?<=n =) ", "\N{NO-BREAK SPACE}", words)


def _what(outcome: Outcome) -> str:
    row = outcome.choice.row
    words = f"Arm {row.arm}: {ARMS[row.arm].words}."
    if outcome.refit:
        words += (
            " Trained again on train + val with the chosen configuration: what is said of test and "
            "of further sets is of that net, what is said of val of the one before it."
        )
    return words


def _numbers(outcome: Outcome, device: str) -> list[Number]:
    row, test = outcome.choice.row, outcome.test
    gain = outcome.gains.get("test")
    found = [
        Number(
            name="Top-1 on test",
            value=_percent(test.top1),
            unit="%",
            note=_close(f"95 % interval {_interval(test)} (Wilson), n = {test.n}"),
        )
    ]
    if gain is not None:
        note = f"on test, image by image; standard error {_percent(gain.error)}"
        value = _signed(100 * gain.difference)
        found.append(Number(name="Gain on the untuned", value=value, unit="points", note=note))
    found.append(
        Number(
            name="Top-1 on val",
            value=_percent(row.top1),
            unit="%",
            note=_close(f"n = {row.n}; val chose, which {_flattery(outcome.choice)}"),
        )
    )
    found.append(Number(name="Work", value=f"{row.gmacs:.3g}", unit="GMACs", note="an image"))
    found.append(Number(name="Size", value=f"{row.params_m:.2f}", unit="M", note="parameters"))
    if row.latency_ms is not None:
        note = f"one image, median, on {device}"
        found.append(Number(name="Latency", value=f"{row.latency_ms:.3g}", unit="ms", note=note))
    note = "one image, float32, without workspaces"
    found.append(Number(name="Memory", value=rounded(row.memory_mb), unit="MB", note=note))
    return found


def _flattery(choice: Choice) -> str:
    return f"flatters it by about {_percent(max(0.0, choice.optimism))} points"


def _captions(plan: Plan, outcome: Outcome, ledger: Ledger) -> dict[str, tuple[str, str]]:
    """For each figure what is seen, for those who do not see it, and its caption."""
    row = outcome.choice.row
    n = f"n = {row.n}"
    val = f"{_percent(row.top1)} % on val ({n})"
    place = f"{row.variant}, {row.train_res} px to {row.test_res} px, arm {row.arm}"
    cut = " A number of epochs under a value marks a trunk that was cut." if ledger.cut else ""
    return {
        "heatmap": (
            f"Heat maps of top-1 on val over train and test resolution. Framed: {place}, {val}.",
            f"Top-1 on val ({n}) over train and test resolution, as trained and after the "
            "adaptation to the test resolution. Bold: the best test resolution of a row. Framed: "
            f"the choice.{cut}",
        ),
        "pareto": (
            f"Top-1 on val against the costs of serving. Ringed: {place}, {val}.",
            "Each point is a cell and an arm; on the stepped line nothing is both better and "
            f"cheaper. Limits asked for: {asked(plan.spec.serving)}.",
        ),
        "curves": (
            f"Top-1 on val of {_count(ledger.trunks, 'trunk')} over the epochs.",
            f"{_count(ledger.trunks, 'trunk')}, {ledger.cut or 'none'} cut by ASHA. Top-1 is that "
            "at the best of the trunk's test resolutions, on val, before any adaptation.",
        ),
        "arms": (
            f"What each arm gains on the trunk untuned, over {_count(ledger.cells, 'cell')}.",
            f"Untuned is the same trunk on the same pixels (arm {UNTUNED}). A mean over cells "
            "hides where the gains are: the dots show it.",
        ),
        "spending": (
            f"Time of trials: {duration(ledger.spent_s)} spent, {duration(ledger.alone_s)} "
            "estimated for one trial a cell.",
            "Without sharing each cell would train a trunk of its own, by the same hyperparameters "
            "and under the same cuts, and run the net anew for each classifier setting and epoch "
            "that was tried. Estimated from the times of this sweep's own epochs and passes.",
        ),
    }


def _unseen_note(outcome: Outcome) -> str:
    return (
        f"{first_look(outcome.test_cells)} A set with fewer classes is scored among its own. "
        f"Untuned is the same trunk on the same pixels (arm {UNTUNED}); gains are paired, image by "
        "image."
    )


# --- tables -------------------------------------------------------------------------------------


def _columns(*names: str, words: Iterable[str] = ()) -> tuple[Column, ...]:
    return tuple(Column(name=name, number=name not in words) for name in names)


def _unseen(outcome: Outcome) -> Table:
    lines = []
    for row in outcome.rows:
        if row.split != "val":
            chosen = row.arm == outcome.choice.row.arm
            gain = outcome.gains.get(row.split) if chosen else None
            cells = (
                row.split,
                row.arm,
                _percent(row.top1),
                _interval(row),
                _percent(row.top5),
                f"{row.n}",
                f"{_signed(100 * gain.difference)} ± {_percent(gain.error)}" if gain else "",
            )
            lines.append(Line(cells=cells, strong=chosen))
    names = ("set", "arm", "top-1 %", "95 % interval", "top-5 %", "n", "gain (points, ± s.e.)")
    return Table(
        name="Sets that nothing was chosen on",
        columns=_columns(*names, words=("set", "arm")),
        lines=tuple(lines),
    )


def _published(compared: Sequence[Comparison]) -> Table | None:
    if not compared:
        return None
    lines = tuple(
        Line(
            cells=(
                one.published.variant,
                f"{one.published.train_res}",
                f"{one.published.test_res}",
                f"{one.published.start_top1:.1f}",
                f"{one.published.fix_top1:.1f}",
                f"{one.top1:.1f}",
                _signed(one.gap),
                one.row.arm,
            )
        )
        for one in compared
    )
    names = ("variant", "train px", "test px", "start", "published", "measured", "gap", "arm")
    columns = _columns(*names, words=("variant", "arm"))
    return Table(name="Beside the published figures", columns=columns, lines=lines)


def _times(ledger: Ledger) -> Table:
    cut = f", {ledger.cut} of them cut" if ledger.cut else ""
    spent = [
        (f"phase 1: {_count(ledger.trunks, 'trunk')}{cut}", ledger.trained_s),
        (f"phase 2: {_count(ledger.cells, 'cell')}", ledger.adapted_s),
        ("test and further sets, read after the choice", ledger.read_s),
    ]
    passes = f"the net run once a cell and split ({ledger.saved_images:,} images fewer)"
    saved = [
        ("trunks cut early", ledger.undone_s),
        ("each trunk trained once for all its test resolutions", ledger.saved_trunks_s),
        (passes, ledger.saved_passes_s),
    ]
    lines = [_time_line(ledger, name, seconds) for name, seconds in spent]
    lines.append(_time_line(ledger, "spent", ledger.spent_s, strong=True))
    lines += [
        _time_line(ledger, f"saved (estimated): {name}", seconds)
        for name, seconds in saved
        if seconds != 0
    ]
    names = ["what", "time of trials"]
    if ledger.price_per_hour is not None:
        names.append(f"cost, at {ledger.price_per_hour:g} an hour")
    columns = _columns(*names, words=("what",))
    return Table(name="Time of trials", columns=columns, lines=tuple(lines))


def _time_line(ledger: Ledger, name: str, seconds: float | None, *, strong: bool = False) -> Line:
    if seconds is None:
        return Line(cells=(name, "not timed", *([""] if ledger.price_per_hour is not None else [])))
    money = ledger.money(seconds)
    return Line(
        cells=(name, duration(seconds), *([] if money is None else [price(money)])), strong=strong
    )


def _images(ledger: Ledger) -> Table:
    lines = tuple(
        Line(cells=(name, f"{images.planned:,}", f"{images.done:,}"))
        for name, images in ledger.images.items()
    )
    columns = _columns("images through the net", "planned, at most", "done",
                       words=("images through the net",))  # fmt: skip
    return Table(name="Images through the net", columns=columns, lines=lines)


def _rows(outcome: Outcome) -> Table:
    """The whole leaderboard: val, best first, then the sets that were read after the choice."""
    chosen = outcome.choice.row
    ordered = sorted(
        outcome.rows, key=lambda r: (r.split != "val", -r.hits1 / r.n, r.gmacs, rank(r.arm))
    )
    words = ("variant", "arm", "split", "classifier")
    names = "variant,train px,test px,arm,split,n,top-1 %,top-5 %,GMACs,M params,MB,ms,images/s"
    names += ",seconds,epochs,classifier"
    return Table(
        name="The leaderboard",
        columns=_columns(*names.split(","), words=words),
        lines=tuple(Line(cells=_cells(r), strong=r == chosen) for r in ordered),
    )


def _cells(row: Row) -> tuple[str, ...]:
    head = ""
    if row.head_tried:
        head = (
            f"{row.head_optimizer}, lr {row.head_lr:g}, smoothing {row.head_smoothing:g}, decay "
            f"{row.head_weight_decay:g}, {row.head_epochs} epochs; of {row.head_tried} tried"
        )
    return (
        row.variant,
        f"{row.train_res}",
        f"{row.test_res}",
        row.arm,
        row.split,
        f"{row.n}",
        _percent(row.top1),
        _percent(row.top5),
        f"{row.gmacs:.3g}",
        f"{row.params_m:.2f}",
        rounded(row.memory_mb),
        "" if row.latency_ms is None else f"{row.latency_ms:.3g}",
        "" if row.images_s is None else f"{row.images_s:.0f}",
        f"{row.seconds:.1f}",
        f"{row.trunk_epochs}",
        head,
    )


def _facts(
    plan: Plan, outcome: Outcome, versions: Mapping[str, str], device: str
) -> dict[str, str]:
    """What it takes to get the same again."""
    row = outcome.choice.row
    shown = ", ".join(plan.classes[:_MOST_CLASSES])
    more = len(plan.classes) - _MOST_CLASSES
    return {
        "Images": f"{plan.name}: {', '.join(f'{n:,} {s}' for s, n in plan.counts.items())}; "
        f"fingerprint {plan.images}",
        "Classes": f"{len(plan.classes)}: {shown}" + (f" and {more:,} more" if more > 0 else ""),
        "Weights": "; ".join(_start(plan, variant) for variant in plan.spec.grid.variants),
        "Seed": f"{plan.spec.run.seed}",
        "Chosen": f"trunk {row.trunk} ({row.trunk_epochs} epochs), cell {row.cell}",
        "Device": device,
        "Versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "Method": "Touvron et al., Fixing the train-test resolution discrepancy, arXiv:1906.06423; "
        "of EfficientNets: arXiv:2003.08237",
    }


def _start(plan: Plan, variant: str) -> str:
    weights = plan.weights[variant]
    if weights.source == "none":
        return f"{variant}: random start"
    timm_id = variants.get(variant).timm_id
    return f"{variant}: {timm_id} ({weights.source}), digest {weights.digest[:16]}"
