"""The model card: honest numbers, and front matter that hubs can read."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml

from sweeps.final_model.outcome import PairedGain
from sweeps.planning.options.groups import ServingOptions
from sweeps.report.model_card import model_card
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row
from tests.factories import (
    CONDITIONS,
    a_row,
    a_served_latency,
    an_int8_net,
    outcome_of,
    plan_of,
    spec_with,
)
from trainables.fixres.arms import ARMS
from trainables.models.weights import Weights

PLAN = plan_of(
    spec_with(train_res=(64, 96), test_res=(96,), arms=("none", "fix")),
    train=700,
    val=150,
    test=140,
)
ROWS = [
    a_row(90, 150, arm="none"),
    a_row(100, 150),
    a_row(91, 150, arm="none", train_res=96),
    a_row(99, 150, train_res=96),
    a_row(84, 140, split="test", top5=0.95),
    a_row(70, 140, split="test", arm="none", top5=0.9),
    a_row(20, 80, split="sketches", top5=0.5),
]


GAINS = {"test": PairedGain(difference=0.1, error=0.034)}


def made(row: Row = ROWS[1], rows: list[Row] = ROWS, **facts: Any) -> str:
    choice = Choice(row=row, reason="It is the best.", optimism=0.0123)
    outcome = outcome_of(rows, choice, gains=GAINS, **facts)
    return model_card(PLAN, outcome, {"torch": "2.0", "timm": "1.0"}, "heatmap.png")


def test_the_card_says_whether_the_exported_file_keeps_the_limit() -> None:
    plan = replace(PLAN, spec=spec_with(PLAN.spec, max_latency_ms=3.0))
    row = replace(ROWS[1], latency_ms=2.2)
    choice = Choice(row=row, reason="It is the best.", optimism=0.0)
    outcome = outcome_of([ROWS[0], row, *ROWS[2:]], choice, latency=CONDITIONS)
    assert "- Latency that it was chosen with: 2.2 ms (median; ONNX Runtime 1.2.3, batch 1" in (
        model_card(plan, outcome, {}, "heatmap.png")
    )
    for ms, verdict in ((2.5, "--max-latency-ms 3 is met"), (3.5, "--max-latency-ms 3 is NOT met")):
        served = replace(outcome, served_latency=a_served_latency(ms))
        (line,) = [
            line
            for line in model_card(plan, served, {}, "heatmap.png").splitlines()
            if line.startswith("- Latency of `model.onnx` itself")
        ]
        assert f"{ms:g} ms (median of 50 runs" in line and line.endswith(f"; {verdict}.")


def test_the_card_tells_the_gains_of_each_set_on_the_trunk_and_on_the_net_untouched() -> None:
    untouched = a_row(50, 150, untouched=True, train_res=224, test_res=224)
    gains = {"test": PairedGain(difference=0.2, error=0.05),
             "sketches": PairedGain(difference=-0.1, error=0.01)}  # fmt: skip
    text = made(rows=[*ROWS, untouched], gains_on_untouched=gains)
    own = "+10.0 points on the untuned trunk (paired, standard error 3.4), "
    above = "+20.0 points on the untouched net (paired, standard error 5.0)"
    assert f"- test: {own}{above}\n" in text
    assert "- sketches: -10.0 points on the untouched net (paired, standard error 1.0)\n" in text
    assert "The untouched net is the best such row on val, b0 untouched -> 224 px" in text
    assert "untouched net" not in made()


def test_the_card_says_what_the_trunk_was_trained_with_where_it_is_known() -> None:
    row = replace(ROWS[1], trained_with=(("lr", 0.002), ("crop_scale", (0.25, 1.0))))
    outcome = outcome_of(ROWS, Choice(row=row, reason="It is the best.", optimism=0.0))
    assert "- Trained with lr 0.002, crop scale 0.25-1." in (
        model_card(PLAN, outcome, {}, "heatmap.png").splitlines()
    )
    assert "Trained with lr" not in made()


def test_the_card_tells_of_the_net_in_eight_bits() -> None:
    outcome = outcome_of(ROWS, int8=an_int8_net())
    lines = model_card(PLAN, outcome, {}, "heatmap.png").splitlines()
    (line,) = [line for line in lines if "eight bits" in line]
    assert line == (f"- The same net in eight bits, `model-int8.onnx`: {an_int8_net().in_words()}.")
    assert not [line for line in made().splitlines() if "eight bits" in line]


def test_the_card_says_how_openvino_opens_the_net() -> None:
    plan = replace(PLAN, spec=spec_with(PLAN.spec, openvino=True))
    text = model_card(plan, outcome_of(ROWS), {}, "heatmap.png")
    assert '"INFERENCE_PRECISION_HINT": "f32"' in text and "model.xml" in text
    assert "model.xml" not in made()


def test_front_matter_is_yaml_with_what_hubs_look_for() -> None:
    _, front, body = made().split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["library_name"] == "timm"
    assert values["pipeline_tag"] == "image-classification"
    assert {"timm", "fixres"} <= set(values["tags"])
    assert body.lstrip().startswith("# FixEfficientNet b0, 64 -> 96 px, crop 1.0\n")
    (model,) = values["model-index"]
    test, sketches = model["results"]
    assert test["task"]["type"] == "image-classification"
    assert test["dataset"]["name"] == "built-in digits, test (n = 140)"
    assert test["metrics"] == [{"type": "accuracy", "value": 0.6, "name": "top-1"}]
    assert sketches["dataset"]["split"] == "sketches"


def test_a_set_with_a_wild_name_leaves_the_front_matter_yaml() -> None:
    wild = 'a: "b" {c} # d'
    _, front, _ = made(rows=[*ROWS, a_row(1, 2, split=wild)]).split("---\n", 2)
    results = yaml.safe_load(front)["model-index"][0]["results"]
    assert results[-1]["dataset"]["split"] == wild


def test_the_base_model_is_named_where_there_is_one() -> None:
    weights = Weights(variant="b0", source="hub x", digest="d", name="n")
    plan = replace(PLAN, weights={"b0": weights})
    _, front, _ = model_card(plan, outcome_of(ROWS), {}, "p.png").split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == "timm/tf_efficientnet_b0.ns_jft_in1k"
    assert "base_model" not in yaml.safe_load(made().split("---\n", 2)[1])


def test_a_refit_and_further_looks_at_test_are_owned_up_to() -> None:
    text = made(refit=True, test_cells=2)
    assert "Trained again on train + val" in text and "those of the net before" in text
    assert "Not the first reading: this sweep has looked at the test split for 2 cells" in text
    assert "Trained again" not in made() and "Not the first" not in made()


def test_limits_picture_and_versions_are_there() -> None:
    plan = replace(PLAN, spec=replace(PLAN.spec, serving=ServingOptions(max_gmacs=0.5)))
    text = model_card(plan, outcome_of(ROWS), {"torch": "2.0", "timm": "1.0"}, "heatmap.png")
    assert "Limits asked for: --max-gmacs 0.5." in text and "(heatmap.png)" in text
    assert "Limits asked for: none." in made() and "Made with torch 2.0, timm 1.0." in text


def test_every_accuracy_has_its_split_and_sample_size() -> None:
    text = made()
    for line in text.splitlines():
        if re.search(r"Top-1 \d", line):
            assert re.search(r"on (val|test) \(n = \d+", line), line
    # 84 of 140; Wilson's interval by its formula.
    assert "| test | fix | 60.0 | 51.7 to 67.7 | 95.0 |  |  | 140 |" in text
    assert "| test | none | 50.0 |" in text and "| sketches | fix | 25.0 |" in text
    assert "On val: top-1 66.7 % (n=150) decided" in text


def test_selection_on_val_is_owned_up_to() -> None:
    text = made()
    assert "among 4 rows" in text and "among 30 (setting, epoch) pairs" in text
    assert "by about 1.2 points" in text
    assert "Read once, after the choice" in text
    assert "- test: +10.0 points on the untuned trunk (paired, standard error 3.4)" in text


def test_the_table_has_each_cell_and_arm_with_n() -> None:
    text = made()
    table = [line for line in text.splitlines() if line.startswith("| b0")]
    assert [re.split(r" *\| *", line)[1:9] for line in table] == [
        ["b0", "64", "96", "1.0", "6", "60.0", "66.7", "0.5"],
        ["b0", "96", "96", "1.0", "6", "60.7", "66.0", "0.5"],
    ]
    assert "| epochs | none | fix | GMACs |" in text
    assert "Top-1 on val in % (n = 150)" in text


def test_it_says_where_the_net_came_from() -> None:
    text = made()
    for words in ("It is the best.", "random", "700 train, 150 val, 140 test", "0123456789abcdef"):
        assert words in text
    assert "Trunk t1, 6 epochs" in text and "seed 0" in text and "arXiv:1906.06423" in text
    assert "3 classes" in text and "4.00 M parameters, 0.5 GMACs an image" in text
    assert "32 MB at its peak (float32, without workspaces)" in text


def test_the_card_shows_how_timms_form_is_averaged_where_it_has_to_be() -> None:
    flipped = a_row(100, 150, arm="fix_flip")
    rows = [flipped, a_row(84, 140, split="test", arm="fix_flip")]
    assert "x.flip(-1)" in made(flipped, rows) and "x.flip(-1)" not in made()
    for card in (made(flipped, rows), made()):
        (snippet,) = [part for part in card.split("```python\n") if part.startswith("import timm")]
        compile(snippet.partition("```")[0], "card", "exec")
        assert snippet.count("logits = ") == 1


@pytest.mark.parametrize("row", [ROWS[0], ROWS[1]], ids=["none", "fix"])
def test_the_arm_is_put_into_words(row: Row) -> None:
    (line,) = [line for line in made(row).splitlines() if line.startswith("tf_efficientnet_b0")]
    assert line.endswith(f": {ARMS[row.arm].words}.")


@pytest.mark.parametrize(
    ("classes", "told", "others"),
    [
        (("cat", "dog"), "0 cat, 1 dog", ()),
        (("0", "1", "10", "2"), "2 10, 3 2", ("timm's readers",)),
        (("0", "1", "2", "10"), "2 2, 3 10", ("torchvision's ImageFolder",)),
        (("dog", "cat"), "0 dog, 1 cat", ("timm's readers", "torchvision's ImageFolder")),
        (tuple(map(chr, range(97, 122))), "9 j, ..., 15 p", ()),
    ],
)
def test_the_card_tells_the_class_map(
    classes: tuple[str, ...], told: str, others: tuple[str, ...]
) -> None:
    plan = replace(PLAN, classes=classes)
    outcome = outcome_of(ROWS, Choice(row=ROWS[1], reason="It is the best.", optimism=0.0))
    card = model_card(plan, outcome, {"torch": "2.0"}, "heatmap.png")
    section = card.partition("## Classes\n\n")[2].partition("\n\n")[0]
    assert told in section and "labels.txt" in section
    assert ("number these classes otherwise" in section) == bool(others)
    assert all(other in section for other in others)


def test_the_card_says_what_was_done_to_pixels_before_the_transform() -> None:
    plan = replace(PLAN, whites={"16-bit grey PNG": 4095})
    text = model_card(plan, outcome_of(ROWS), {}, "p.png")
    assert "short side above 1,024 px were first reduced to it, as the MLflow model does" in text
    assert "white is 4,095 in 16-bit grey PNG" in text
    assert "white is" not in model_card(PLAN, outcome_of(ROWS), {}, "p.png")


def test_where_splits_are_from_and_what_looks_alike_in_them_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "Splits:" not in made() and "Near-duplicates:" not in made()
    told = replace(PLAN, splits="test is val of the data", near_duplicates="none between a, b")
    monkeypatch.setitem(globals(), "PLAN", told)
    card = made()
    assert "\n- Splits: test is val of the data.\n- Near-duplicates: none between a, b.\n" in card


def test_what_balances_classes_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Class balance" not in made()
    balanced = replace(PLAN, spec=spec_with(PLAN.spec, sampling="balanced"))
    monkeypatch.setitem(globals(), "PLAN", balanced)
    assert "\n- Class balance: balanced sampling: an epoch draws " in made()
