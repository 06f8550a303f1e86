"""The report: one file, nothing from elsewhere, nothing of the user's taken for markup."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from sweeps.final_model.outcome import Outcome
from sweeps.report.page import render_page
from sweeps.report.spending_plot import plot_spending
from sweeps.selection.published_comparison import Comparison, compare_with_published
from tests.factories import (
    CONDITIONS,
    a_row,
    a_served_latency,
    an_int8_net,
    spec_with,
)
from tests.sweeps.report.finished_sweep import (
    CHOSEN,
    ON_UNTOUCHED,
    PLAN,
    ROWS,
    UNTOUCHED,
    VAL,
    WILD,
    an_outcome,
    spent,
)

VOID = {"meta", "br", "hr", "img", "input", "link"}


def a_figure() -> Figure:
    drawn = Figure(layout="constrained")
    drawn.subplots().plot([0, 1], [1, 2])
    return drawn


def made(
    outcome: Outcome | None = None,
    figures: Mapping[str, Figure] | None = None,
    compared: Sequence[Comparison] = (),
    price_per_hour: float | None = 3.0,
) -> str:
    """A page without figures, unless told otherwise."""
    return render_page(
        PLAN,
        outcome or an_outcome(),
        spent(price_per_hour),
        {} if figures is None else figures,
        compared,
        versions={"torch": "2.0"},
        command=f"python sweeps/fixres_grid.py --data {WILD} --seed 0",
        latency="a slow machine",
    )


class Parsed(HTMLParser):
    """Tags, what they refer to, ids, the text, and the tables as texts of their cells."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.refers: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.tables: list[list[list[str]]] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action"):
                self.refers.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "tags are nested"

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.open[-1:]):
            self.tables[-1][-1][-1] += data

    def table(self, first: str) -> list[list[str]]:
        """The lines of the table whose first column has this name."""
        (found,) = [t for t in self.tables if t[0][0] == first]
        return found[1:]


def words(html: str) -> str:
    return " ".join(Parsed(html).text.replace("\N{NO-BREAK SPACE}", " ").split())


# --- the page -----------------------------------------------------------------------------------


def two_figures() -> dict[str, Figure]:
    return {"heatmap": a_figure(), "spending": plot_spending(spent())}


def test_it_needs_nothing_from_elsewhere() -> None:
    html = made(figures=two_figures())
    parsed = Parsed(html)
    assert parsed.refers and all(r.startswith(("#", "data:")) for r in parsed.refers)
    assert not {"link", "img", "iframe"} & {tag for tag, _ in parsed.tags}
    assert not re.search(r"url\((?!#)|@import", html)


def test_ids_are_unique_and_what_is_referred_to_is_there() -> None:
    html = made(figures={"heatmap": a_figure(), "pareto": a_figure()})
    parsed = Parsed(html)
    assert parsed.ids and len(parsed.ids) == len(set(parsed.ids))
    assert {r[1:] for r in parsed.refers if r[0] == "#"} <= set(parsed.ids)
    clips = set(re.findall(r"url\(#([^)]*)\)", html))
    assert clips and clips <= set(parsed.ids)


def test_the_same_sweep_gives_the_same_bytes() -> None:
    figures = two_figures()
    first = made(figures=figures)
    assert first == made(figures=figures) == made(figures=two_figures())


def test_figures_are_named_for_those_who_do_not_see_them_and_have_a_caption() -> None:
    tags = Parsed(made(figures=two_figures())).tags
    drawn = [attrs for tag, attrs in tags if tag == "svg"]
    assert len(drawn) == sum(tag == "figcaption" for tag, _ in tags) == 2
    assert all(attrs["role"] == "img" for attrs in drawn)
    labels = [attrs["aria-label"] or "" for attrs in drawn]
    assert "70.0 % on val (n = 50)" in labels[0] and "one trial a cell" in labels[1]


def test_what_comes_from_users_is_text() -> None:
    plan = replace(PLAN, classes=(WILD, "dog"))
    html = render_page(plan, an_outcome(), spent(), {}, [], {}, f"--data {WILD}", latency=WILD)
    assert "<b>" not in html
    text = Parsed(html).text
    assert text.count(WILD) >= 5  # set, leaderboard, class, command, latency
    assert f"2: {WILD}, dog" in text


def test_every_accuracy_has_its_n() -> None:
    text = words(made())
    assert "served at 64 px (crop 1.0), has 30.0 % of test right (top-1, n = 30)" in text  # 9 of 30
    assert "95 % interval 16.7 to 47.9 (Wilson), n = 30" in text  # by its formula
    assert "flatters its own top-1 (70.0 %, n = 50) by about 1.2 points" in text
    assert "+6.7 points on test, image by image; standard error 3.1" in text


def test_what_it_costs_to_serve_is_said_with_the_device() -> None:
    text = words(made())
    for number in ("0.5 GMACs", "4.00 M parameters", "12.3 ms", "32 MB"):
        assert number in text
    assert "12.3 ms median; a slow machine" in text
    assert "ms is the median time of a request" in text
    untimed = an_outcome(replace(CHOSEN, latency_ms=None))
    assert "Latency" not in words(made(untimed))


def test_the_latency_of_the_exported_file_stands_beside_that_of_the_row() -> None:
    found = replace(an_outcome(), latency=CONDITIONS, served_latency=a_served_latency(13.5))
    text = words(made(found))
    assert "12.3 ms" in text and "13.5 ms" in text and "Latency of model.onnx" in text


def test_the_net_in_eight_bits_stands_beside_the_float_one() -> None:
    text = words(made(replace(an_outcome(), int8=an_int8_net())))
    assert "Top-1 of model-int8.onnx on test" in text and "90.0 %" in text
    assert "-2.0 points on model.onnx" in text
    assert "model-int8" not in words(made())


def test_an_untuned_choice_has_no_gain() -> None:
    html = made(an_outcome(VAL[0], gains={}))
    assert "Gain on the untuned" not in html and "Gain on the untuned" in made()
    assert "23.3 % of test right" in words(html)


def test_what_is_above_the_untouched_net_is_told_on_test_where_it_was_read_there() -> None:
    """On val, which picked the choice, it is flattered."""
    above = replace(CHOSEN, on_untouched=0.33, on_untouched_error=0.04)
    rows = [*(above if row == CHOSEN else row for row in ROWS), UNTOUCHED]
    on_val = words(made(an_outcome(above, rows=rows)))
    assert "+33.0 points val, image by image; standard error 4.0" in on_val
    assert "untouched net is the best" not in on_val
    on_test = words(made(an_outcome(above, rows=rows, gains_on_untouched=ON_UNTOUCHED)))
    assert "+26.7 points on test, image by image; standard error 5.2" in on_test
    assert "+33.0 points" not in on_test
    assert "The untouched net is the best such row on val, b0 untouched -> 96 px" in on_test
    assert "untouched" not in words(made()).split("Sets that nothing was chosen on")[0]


def test_the_sets_read_after_the_choice_stand_in_a_table() -> None:
    assert Parsed(made()).table("set") == [
        ["test", "fix", "30.0", "16.7 to 47.9", "95.0", "", "", "30", "+6.7 ± 3.1"],
        ["test", "none", "23.3", "11.8 to 40.9", "33.3", "25.0", "20.0", "30", ""],
        [WILD, "fix", "16.7", "7.3 to 33.6", "26.7", "", "", "30", "−10.0 ± 20.0"],
    ]


def test_all_rows_are_there_val_first_the_best_above() -> None:
    parsed = Parsed(made())
    lines = parsed.table("variant")
    assert len(lines) == len(ROWS)
    assert [line[5] for line in lines[-3:]] == ["test", "test", WILD]
    assert lines[0][:8] == ["b0", "64", "64", "1.0", "fix", "val", "50", "70.0"]
    assert lines[0][15] == "12.3" and lines[1][15] == ""
    assert lines[0][-1].endswith("5 epochs; of 30 tried")


def test_the_metric_that_decided_is_named_and_orders_the_rows() -> None:
    rows = [replace(r, macro_f1=1 - r.top1) for r in ROWS]
    chosen = rows[ROWS.index(CHOSEN)]
    outcome = an_outcome(chosen, rows=rows)
    outcome = replace(outcome, choice=replace(outcome.choice, metric="macro_f1"))
    html = made(outcome, figures={"heatmap": a_figure(), "pareto": a_figure()})
    text = words(html)
    assert "macro-F1 30.0 % (n = 50) decided" in text and "Top-1 on test 30.0 %" in text
    assert "Macro-F1 on test 70.0 % by which val chose; n = 30" in text
    assert "Macro-F1 on val (n = 50) over train and test resolution" in text
    of_val = [line for line in Parsed(html).table("variant") if line[5] == "val"]
    assert len(of_val) == sum(row.split == "val" for row in rows) > 1
    assert [float(line[11]) for line in of_val] == sorted(
        (round(100 * row.value("macro_f1"), 1) for row in rows if row.split == "val"), reverse=True
    )


def test_sections_without_content_are_left_out() -> None:
    plain = words(made())
    for heading in ("Before and after", "Beside the published figures", "How the trunks learned"):
        assert heading not in plain
    for heading in ("What was spent", "The leaderboard", "How to repeat it"):
        assert heading in plain
    assert "Before and after" in words(made(figures={"heatmap": a_figure()}))


def test_published_figures_stand_beside_the_measured() -> None:
    compared = compare_with_published([a_row(800, 1000, variant="b0", train_res=224, test_res=320)])
    parsed = Parsed(made(compared=compared))
    (line,) = next(t for t in parsed.tables if "published" in t[0])[1:]
    assert line == ["b0", "224", "320", "78.7", "80.2", "80.0", "−0.2", "fix"]
    assert "on val, n = 1000" in " ".join(parsed.text.split())


def test_a_refit_and_further_looks_are_owned_up_to() -> None:
    html = made(an_outcome(refit=True, test_cells=3))
    assert "Trained again on train + val" in html and "Not the first reading" in html
    assert "Trained again" not in made() and "Read once, after the choice." in made()


def test_the_ledger_is_a_table_with_money_where_there_is_a_price() -> None:
    # Phase 1: 60 + 20 s; phase 2: 4 cells of 25 s; 2.5 s for each of three readings.
    lines = {line[0]: line[1:] for line in Parsed(made()).table("what")}
    assert lines["phase 1: 2 trunks, 1 of them cut"] == ["80 s", "0.07"]
    assert lines["phase 2: 4 cells"] == ["100 s", "0.08"]
    assert lines["spent"] == ["3.1 min", "0.16"]
    assert lines["saved (estimated): trunks cut early"] == ["40 s", "0.03"]
    free = Parsed(made(price_per_hour=None)).table("what")
    assert [line[:2] for line in free] == [[k, v[0]] for k, v in lines.items()]
    assert all(len(line) == 2 for line in free)


def test_it_says_how_to_repeat_it() -> None:
    text = words(made())
    for found in (
        f"--data {WILD} \\ --seed 0",
        "torch 2.0",
        "fingerprint 0123456789abcdef",
        "Seed 0",
        "b0: random start",
    ):
        assert found in text


def test_the_limits_stand_below_the_costs() -> None:
    assert "Limits asked for: --max-gmacs 2." in made(figures={"pareto": a_figure()})


def test_where_splits_are_from_and_what_looks_alike_in_them_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "Near-duplicates" not in Parsed(made()).text
    told = replace(PLAN, splits=f"test is {WILD}", near_duplicates="3 of 9 images of val")
    monkeypatch.setitem(globals(), "PLAN", told)
    words = " ".join(Parsed(made()).text.split())
    assert f"Splits test is {WILD}" in words and "Near-duplicates 3 of 9 images of val" in words


def test_what_balances_classes_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Class balance" not in Parsed(made()).text
    weighted = replace(PLAN, spec=spec_with(PLAN.spec, class_weights="sqrt"))
    monkeypatch.setitem(globals(), "PLAN", weighted)
    words = " ".join(Parsed(made()).text.split())
    assert "Class balance class weights in the loss of training and of classifiers: sqrt" in words
