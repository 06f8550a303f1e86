"""The plan and the results as a terminal prints them."""

from __future__ import annotations

import re
from math import ceil

import pytest

from sweeps.final_model.outcome import PairedGain
from sweeps.planning.options.groups import ServingOptions
from sweeps.planning.plan import Plan
from sweeps.planning.savings.rungs import FIRST_RUNG_STEPS
from sweeps.planning.serving.costs import COST_OF_FIELD
from sweeps.planning.units import three_digits
from sweeps.planning.workload import gmacs_left
from sweeps.scheduling.screening import screened_by
from sweeps.selection.choice import Choice
from sweeps.selection.published_comparison import compare_with_published
from sweeps.selection.repeats import with_repeats_counted
from sweeps.terminal.plan_tables import plan_view
from sweeps.terminal.result_tables import held_out_lines, pareto_table, summary
from tests.factories import (
    CONDITIONS,
    a_row,
    a_served_latency,
    an_int8_net,
    file_console,
    outcome_of,
    output_of,
    plan_of,
    spec_with,
)

OF_3_STEPS = ceil(FIRST_RUNG_STEPS / 3)  # the first rung where an epoch has so many


@pytest.fixture
def plan() -> Plan:
    axes = {"variants": ("b0", "b1"), "train_res": (100,), "test_res": (100, 200)}
    return plan_of(spec_with(**axes, grace_epochs=2))


def test_the_plan_says_what_will_be_done_and_what_it_costs(plan: Plan) -> None:
    console = file_console()
    console.print(plan_view(plan))
    text = output_of(console)
    assert "120 train, 50 val, 40 test; 3 classes" in text
    assert "8: b0 b1 x train 100 px x 4 samples; 20 epochs, cut after 2, 6, 18: " in text
    assert "of 4 of a point, about 1, 1, 1 go on" in text
    assert re.search(
        r"cells +8: 1 trunk.*x test 100 200 px x crop 0.875 0.882 1.0; arms none pool bn", text
    )
    # Of 8 cells of 120 and 50 images every second is for a further crop.
    assert re.search(r"crops +4 of the cells, and 680 of the images .* rungs take", text)
    assert re.search(r"b1 +5.00 +2 +8\b", text)  # GMACs at 100 and 200 px
    most, expected = re.findall(r"([\d.]+) TMACs.*about ([\d.]+)", text)[0]
    assert float(most) == pytest.approx(
        4 * sum(gmacs_left(plan, p) for p in plan.points) / 1e3, abs=0.06
    )
    assert float(expected) < float(most)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"epochs": 1, "grace_epochs": 2}, "1 epochs, none cut: the first rung is 2 (--grace"),
        ({"grace_epochs": 50}, "20 epochs, none cut: the first rung is 50 (--grace"),
        ({}, f"20 epochs, none cut: the first rung is {OF_3_STEPS} (--grace"),
        ({"samples": 1, "grace_epochs": 2}, "20 epochs, cut after 2, 6, 18\n"),
    ],
)
def test_a_plan_without_rungs_or_choice_can_be_shown(options: dict[str, int], told: str) -> None:
    console = file_console()
    console.print(plan_view(plan_of(spec_with(**options))))
    assert told in output_of(console)


@pytest.mark.parametrize(("cascade", "most"), [(False, 3), (True, 6)])
def test_the_plan_bounds_what_a_screen_leaves(cascade: bool, most: int) -> None:
    """The bound is reached where the largest resolutions are best, and the smallest worst."""
    axes = {"variants": ("b0", "b1", "b2"), "train_res": (64, 96, 128), "test_res": (64, 96, 128)}
    plan = plan_of(spec_with(**axes, screen=0.1, cascade=cascade), weights=True)
    console = file_console()
    console.print(plan_view(plan))
    assert f"of the 9 variants and train resolutions, 1 to {most} are" in output_of(console)
    rows = [
        a_row(res // 4, variant=variant, train_res=224, test_res=res, untouched=True)
        for variant in ("b0", "b1", "b2")
        for res in (64, 96, 128)
    ]
    assert len(screened_by(plan, rows).points) == most


def test_an_automatic_ladder_is_explained() -> None:
    console = file_console()
    console.print(plan_view(plan_of(spec_with(train_res=(64, 128), test_res="auto"))))
    text = output_of(console)
    assert "crops of 25 to 100 % of the area in training, images of 1.00 : 1" in text
    assert re.search(r"64 px: test 64 \d+ \d+ \d+, around \d+ px \(1\.\d\d times\)", text)
    assert "the images (100 px) are enlarged" in text


def test_untrained_nets_are_said_to_be_so() -> None:
    console = file_console()
    console.print(plan_view(plan_of(spec_with(epochs=0, train_res="native", test_res="published"))))
    text = output_of(console)
    assert "as their weights are, untrained" in text and "TMACs" not in text
    assert "train 224 px" in text and "test 320 px" in text
    assert "the classes in this order are taken for the weights' own order" in text


def test_the_summary_shows_the_best_the_choice_and_test() -> None:
    rows = [a_row(60 + i, 100, train_res=32 * (i + 1)) for i in range(12)]
    rows += [a_row(60, 80, split="test", top5=0.988), a_row(50, 80, split="test", arm="none")]
    choice = Choice(row=rows[0], reason="It is cheap.", optimism=0.004)
    console = file_console()
    console.print(
        summary(outcome_of(rows, choice, gains={"test": PairedGain(difference=0.125, error=0.04)}))
    )
    text = output_of(console)
    assert "Best of 12 rows, on val (n=100)" in text
    shares = [float(m) for m in re.findall(r"fix +([\d.]+) ", text)]
    assert shares == [71.0, 70.0, 69.0, 68.0, 67.0, 66.0, 65.0, 64.0, 60.0]
    assert "chosen   It is cheap." in text
    # Wilson's interval of 60 in 80, by its formula: 64.5 to 83.2.
    assert "test     top-1 75.0 % (n=80, 95 % interval 64.5 to 83.2), top-5 98.8 %" in text
    assert "+12.5 points on the untuned trunk (paired, standard error 4.0)" in text
    assert "flatters its own top-1 (60.0 %, n=100) by about 0.4 points" in text
    assert "val      top-1 60.0 % (n=100) decided" in text


@pytest.mark.parametrize("arm", ["fix", "none_flip", "none"])
def test_each_held_out_set_is_told_beside_the_untouched_net(arm: str) -> None:
    chosen, test = a_row(60, 100, arm=arm), a_row(60, 80, split="test", arm=arm)
    above = {"test": PairedGain(difference=0.3, error=0.04)}
    (line,) = held_out_lines(outcome_of([chosen, test], gains_on_untouched=above))
    tuned = "nothing was tuned, " if arm == "none" else ""
    assert str(line).endswith(
        f"; {tuned}+30.0 points on the untouched net (paired, standard error 4.0)"
    )


def test_a_refit_and_further_looks_at_test_are_told() -> None:
    rows = [a_row(90, 100), a_row(45, 50, split="test")]
    console = file_console()
    console.print(summary(outcome_of(rows, refit=True, test_cells=3)))
    output = " ".join(output_of(console).split())
    assert "refit trained again on train + val; what follows is of that net" in output
    assert "looked at the test split for 3 cells" in output
    console = file_console()
    console.print(summary(outcome_of(rows)))
    assert "refit" not in output_of(console) and "looked at" not in output_of(console)


def test_arms_are_compared_with_the_untuned_one_cell_by_cell() -> None:
    rows = [
        a_row(hits, 100, arm=arm, train_res=res, seconds=seconds)
        for arm, seconds, by_res in (
            ("none", 2.0, {64: 60, 96: 60}),
            ("bn", 1.0, {64: 50, 96: 60}),
            ("fix", 4.0, {64: 70, 96: 58}),
        )
        for res, hits in by_res.items()
    ]
    console = file_console()
    console.print(summary(outcome_of(rows)))
    text = output_of(console)
    assert "Arms over 2 cells, on val (n=100)" in text
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert lines["bn"] == ["55.0", "60.0", "1.0", "-5.0", "0/1"]
    assert lines["none"] == ["60.0", "60.0", "2.0"]
    assert lines["fix"] == ["64.0", "70.0", "4.0", "+4.0", "1/1"]


def test_an_untouched_net_stands_first_and_what_the_choice_is_above_it_is_said() -> None:
    untouched = [
        a_row(hits, 100, untouched=True, train_res=224, test_res=res, trunk_epochs=0)
        for res, hits in ((64, 30), (96, 40))
    ]
    tuned = a_row(70, 100, on_untouched=0.3, on_untouched_error=0.05)
    rows = [*untouched, tuned, a_row(60, 100, arm="none")]
    console = file_console()
    console.print(summary(outcome_of(rows, Choice(row=tuned, reason="Best.", optimism=0.0))))
    text = output_of(console)
    lines = [line.split() for line in text.splitlines() if line.strip().startswith("b0")]
    assert lines[0][:5] == ["b0", "untouched", "96", "1.0", "fix"]
    assert [line[1] for line in lines[1:]] == ["64", "64"]
    above = "+30.0 points of top-1 above the untouched net's best row (on val, n = 100; paired"
    assert f"{above}, 95 % interval +20.2 to +39.8)" in text
    assert "Arms over 1 cells" not in text and "Arms over one cell" in text


def test_published_figures_stand_beside_the_measured() -> None:
    rows = [a_row(800, 1000, variant="b0", train_res=224, test_res=320)]
    console = file_console()
    console.print(summary(outcome_of(rows), compare_with_published(rows)))
    assert re.search(r"b0 +224 +320 +80\.2 +80\.0 +-0\.2 +fix +val, n=1000", output_of(console))


def test_a_row_is_starred_where_it_is_on_a_costs_front() -> None:
    costs = {
        "b1": (2.0, 8.0, 1534.6, 20.0),
        "b2": (1.0, 8.0, 80.0, 30.0),
        "b3": (3.0, 4.0, 90.0, 20.0),
    }
    best, narrow, wide = (
        a_row(hits, 100, variant=name, **dict(zip(COST_OF_FIELD, costs[name], strict=True)))
        for name, hits in (("b1", 90), ("b2", 80), ("b3", 80))
    )
    console = file_console()
    console.print(pareto_table([best, narrow, wide], list(COST_OF_FIELD), best))
    lines = [line.split() for line in output_of(console).splitlines() if " fix " in line]
    assert [line[0] for line in lines] == ["b2", "b1", "b3"]
    assert [" ".join(line[6:]) for line in lines] == [
        "1 * 8 80 * 30",
        "2 * 8 * 1530 * 20 *",
        "3 4 * 90 20",
    ]


@pytest.mark.parametrize(
    ("cost", "words"),
    [(0.0123456, "0.0123"), (20.0, "20"), (32.44, "32.4"), (999.7, "1000"), (2668.07, "2670")],
)
def test_costs_are_rounded_without_exponents(cost: float, words: str) -> None:
    assert three_digits(cost) == words


def test_the_net_in_eight_bits_is_told_beside_the_float_one() -> None:
    console = file_console()
    console.print(summary(outcome_of([a_row(30), a_row(25, split="test")], int8=an_int8_net())))
    assert (
        "int8     model-int8.onnx: top-1 on test 90.0 % (n=50; -2.0 points on model.onnx, paired, "
        "standard error 1.4), 3.8 MB instead of 13.5, 1.5 ms instead of 2.5 (medians, in turns; "
        "ONNX Runtime 1.2.3, batch 1, 2 threads, int8, A CPU); ranges read off 256 train images"
    ) in " ".join(output_of(console).split("\n"))


def test_a_limit_that_the_exported_file_misses_is_a_warning() -> None:
    row = a_row(30, latency_ms=2.2)
    rows = [row, a_row(25, split="test")]
    starts = {2.5: "served   model.onnx takes 2.5 ms", 3.5: "warning: model.onnx takes 3.5 ms"}
    for ms, start in starts.items():
        console = file_console()
        outcome = outcome_of(rows, latency=CONDITIONS, served_latency=a_served_latency(ms))
        console.print(summary(outcome, limits=ServingOptions(max_latency_ms=3.0)))
        said = output_of(console)
        assert "latency  2.2 ms (median; ONNX Runtime 1.2.3, batch 1, 2 threads" in said
        assert start in said and ("is NOT met" in said) == (ms > 3)


def test_of_repeats_one_line_stands_for_all_with_mean_and_spread() -> None:
    own = [a_row(h, 100, trunk=f"t{i}", repeat=i, configuration="t0" * (i > 0), gmacs=0.7) for
           i, h in enumerate((70, 80, 75))]  # fmt: skip
    rows = with_repeats_counted([*own, a_row(60, 100, trunk="u")])
    choice = Choice(row=rows[1], reason="It is the best.", optimism=0.01)
    console = file_console()
    console.print(summary(outcome_of([*rows, a_row(70, 100, split="test")], choice)))
    text = output_of(console)
    lines = [line.split() for line in text.splitlines() if line.lstrip().startswith("b0 ")][:2]
    assert [(line[5], line[-1]) for line in lines] == [("75.0", "5.0"), ("60.0", "4.00")]
    assert "over 3 trainings with different seeds the standard deviation is 5.0 points, and" in text
    assert "number 2, which is handed over, has 80.0 %" in text
    assert "val picked classifier, row, trunk and repeat" in text


def test_repeats_are_planned(plan: Plan) -> None:
    console = file_console()
    console.print(plan_view(plan_of(spec_with(plan.spec, repeat=3, samples=2))))
    text = output_of(console)
    assert re.search(r"trunks +8: b0 b1 .* x 2 samples", text)
    assert "4 of the trunks: what is fixed" in text and "trained 3 times" in text
    assert re.search(r"cells +24: 3 trunk", text)
