"""What runs hold, as plain values."""

from __future__ import annotations

from typing import Any

import pytest

from sweeps.events.failures import Failure, failures_in_words
from sweeps.selection.choice import Choice
from sweeps.selection.repeats import with_repeats_counted
from sweeps.tracking.payloads import (
    Results,
    cell_end_tags,
    cell_metrics,
    cell_run_name,
    epoch_metrics,
    result_metrics,
    result_note,
    result_tags,
    sweep_params,
    sweep_tags,
    trunk_end_tags,
    trunk_tags,
)
from sweeps.tracking.ui_links import compare_link, view_link
from tests.factories import CONDITIONS, HYPER, a_row, plan_of, spec_with
from trainables.evaluation.metrics import Score
from trainables.training.trunk import EpochReport, TrunkStatus


def report(epoch: int, micro_batch: int | None = None, **other: Any) -> EpochReport:
    values: dict[str, Any] = {
        "loss": 1.0, "train_top1": 0.5, "images": 8, "lr": 0.1, "seconds": 2.0, "at": 0
    }  # fmt: skip
    return EpochReport(epoch=epoch, micro_batch=micro_batch, **(values | other))


def test_a_sweep_is_described_by_its_plan() -> None:
    plan = plan_of(spec_with(variants=("b0", "b1"), train_res=(64,), test_res=(64, 96), seed=3))
    axes = {"variants": "b0 b1", "train_res": "64", "test_res": "64 96"}
    assert sweep_params(plan) == axes | {"test_crop_pct": "0.875 0.882 1.0"}
    tags = sweep_tags(plan)
    assert (tags["role"], tags["seed"], tags["n_val"]) == ("sweep", 3, 50)
    assert str(tags["mlflow.note.content"]).startswith(
        "FixRes sweep over b0, b1: trained at 64 px, tested at 64, 96 px, crop 0.875, 0.882, 1.0."
    )


def test_a_sweep_that_balances_classes_says_so() -> None:
    note = str(sweep_tags(plan_of(spec_with(sampling="balanced")))["mlflow.note.content"])
    assert "(n = 50). Class balance: balanced sampling: an epoch draws 120 images" in note
    assert "Class balance" not in str(sweep_tags(plan_of(spec_with()))["mlflow.note.content"])


def test_an_epoch_has_its_best_val_accuracy_and_that_at_each_test_res() -> None:
    val = {res: Score(split="val", n=10, hits1=hits, hits5=10) for res, hits in ((64, 4), (96, 6))}
    assert epoch_metrics(report(2, val=val)) == {
        "lr": 0.1,
        "seconds": 2.0,
        "train/top1": 0.5,
        "train/loss": 1.0,
        "val/top1": 0.6,
        "val/top1_at_64": 0.4,
        "val/top1_at_96": 0.6,
    }


def test_an_epoch_without_loss_or_val_has_no_metric_of_them() -> None:
    assert epoch_metrics(report(1, loss=None, train_top1=None)) == {"lr": 0.1, "seconds": 2.0}


def test_a_trunk_is_tagged_with_the_micro_batch_that_it_came_down_to() -> None:
    reports = [report(1, None), report(2, 16), report(3, 8)]
    assert trunk_end_tags(TrunkStatus.CUT, reports) == {
        "ended": "cut",
        "epochs_trained": 3,
        "micro_batch": 8,
    }


def test_a_trunk_is_tagged_with_the_epochs_in_which_its_norms_stood_still() -> None:
    reports = [report(1, None), report(2, 4, frozen_norms=True), report(3, 4, frozen_norms=True)]
    assert trunk_end_tags(TrunkStatus.FINISHED, reports)["frozen_norms"] == 2
    assert "frozen_norms" not in trunk_end_tags(TrunkStatus.FINISHED, reports[:1])


def test_a_trunk_is_tagged_with_what_sped_its_last_epoch_up() -> None:
    reports = [report(1, speed_ups="compile"), report(2, speed_ups="compile: not used, OSError")]
    assert trunk_end_tags(TrunkStatus.CUT, reports)["speed_ups"] == "compile: not used, OSError"


def test_a_repeat_is_tagged_with_what_it_repeats() -> None:
    plan = plan_of(spec_with())
    first = plan.trunk(plan.points[0], HYPER)
    repeat = plan.trunk(plan.points[0], HYPER, repeat=2)
    assert trunk_tags(repeat) == trunk_tags(first) | {"repeat": 2, "repeat_of": first.key}
    names = [cell_run_name(plan.cell(trunk, 2, 128, 1.0)) for trunk in (first, repeat)]
    assert names[1] == f"{names[0]}-repeat2"


def test_a_chosen_repeat_has_its_mean_its_own_value_and_the_spread() -> None:
    rows = with_repeats_counted([a_row(30, trunk="a"), a_row(40, trunk="b", repeat=1,
                                                            configuration="a")])  # fmt: skip
    metrics = result_metrics(Choice(row=rows[1], reason="best", optimism=0.0), rows)
    assert metrics["val/top1"] == pytest.approx(0.7) and metrics["val/own"] == 0.8
    assert metrics["val/repeats"] == 2 and metrics["val/repeats_sd"] == pytest.approx(0.2 / 2**0.5)


def test_a_trunk_that_fitted_into_memory_has_no_such_tag() -> None:
    assert "micro_batch" not in trunk_end_tags(TrunkStatus.FINISHED, [report(1, None)])
    assert trunk_end_tags(TrunkStatus.FAILED, []) == {"ended": "failed", "epochs_trained": 0}


def test_a_cell_has_the_metrics_of_its_best_arm_and_the_top1_of_every_arm() -> None:
    rows = [a_row(20, arm="none"), a_row(30, arm="fix"), a_row(30, arm="fix_aug")]
    assert cell_metrics(rows) == pytest.approx(
        {
            "val/top1": 0.6,
            "val/top5": 0.7,
            "val/top1_none": 0.4,
            "val/top1_fix": 0.6,
            "val/top1_fix_aug": 0.6,
            "work/gmacs": 0.5,
            "work/params_m": 4.0,
            "work/seconds": 7.5,
        }
    )
    assert cell_end_tags(rows[:2]) == {
        "n_val": 50,
        "best_arm": "fix",  # the first of those that are equal
        "untouched": False,
        "head_fix": "sgd, lr 0.03, smoothing 0.1, weight decay 0.0001, 5 epochs; of 30 tried",
    }


def test_metrics_by_class_are_there_where_they_were_counted() -> None:
    rows = [
        a_row(30, arm="none", balanced_accuracy=0.5, macro_f1=0.4),
        a_row(20, arm="fix", balanced_accuracy=0.3, macro_f1=0.6),
    ]
    values = cell_metrics(rows, "macro_f1")
    assert (values["val/top1"], values["val/macro_f1"]) == (0.4, 0.6)  # of the best by macro-F1
    assert values["val/balanced_accuracy_none"] == 0.5 and values["val/macro_f1_none"] == 0.4
    assert cell_end_tags(rows, "macro_f1")["best_arm"] == "fix"
    assert cell_end_tags(rows)["best_arm"] == "none"
    choice = Choice(row=rows[1], reason="It is the best.", optimism=0.0, metric="macro_f1")
    test = a_row(9, 10, split="test", balanced_accuracy=0.8, macro_f1=0.7)
    results = result_metrics(choice, [*rows, test])
    assert (results["val/macro_f1"], results["test/macro_f1"]) == (0.6, 0.7)
    assert results["test/balanced_accuracy"] == 0.8


def test_the_results_are_the_chosen_rows_on_every_set() -> None:
    row = a_row(30, latency_ms=7.0)
    choice = Choice(row=row, reason="It is the best.", optimism=0.01)
    held_out = [
        a_row(hits, 40, split=split, arm=arm)
        for split, arm, hits in (
            ("test", "fix", 30), ("test", "none", 24), ("my set (v2)", "fix", 10)
        )
    ]  # fmt: skip
    assert result_metrics(choice, [a_row(20, arm="none"), row, *held_out]) == pytest.approx(
        {
            "val/top1": 0.6,
            "val/top5": 0.7,
            "val/top1_kept": row.top1,
            "val/optimism": 0.01,
            "work/params_m": 4.0,
            "work/gmacs": 0.5,
            "work/memory_mb": 32.0,
            "work/latency_ms": 7.0,
            "test/top1": 0.75,
            "test/top5": 0.85,
            "test/top1_untuned": 0.6,
            "test/top5_untuned": 0.7,
            "my set _v2_/top1": 0.25,
            "my set _v2_/top5": 0.35,
        }
    )
    assert result_tags(Results(choice=choice, rows=[])) == {
        "chosen": "b0 64 -> 96 px, crop 1.0, arm fix", "reason": "It is the best.",
        "failed_trunks": "0", "failed_cells": "0",
    }  # fmt: skip


def test_what_latency_was_measured_with_is_told() -> None:
    choice = Choice(row=a_row(30, latency_ms=7.0), reason="It is the best.", optimism=0.0)
    tags = result_tags(Results(choice=choice, rows=[], latency=CONDITIONS))
    assert tags["latency_runtime"] == "onnx" and tags["latency_device"] == "A CPU"
    assert (tags["latency_threads"], tags["latency_batch"]) == ("2", "1")


def test_an_unknown_latency_is_left_out() -> None:
    choice = Choice(row=a_row(30), reason="It is the best.", optimism=0.0)
    assert "work/latency_ms" not in result_metrics(choice, [])


@pytest.mark.parametrize("count", [4, 324, 5_000])
@pytest.mark.parametrize("long", [1, 40, 400, 10_000])
def test_the_note_of_a_finished_sweep_is_never_cut_within_a_part(count: int, long: int) -> None:
    """MLflow cuts a tag off at 8,000 characters: the reason is first, and every link is whole."""
    reason = ("It is the best. " * long)[:7_999]
    failed = Failure(kind="cell", name="b0 64 -> 96 px", key="", reason="no room " * long)
    ids = [f"{number:032x}" for number in range(count)]
    links = [compare_link(ids, "7"), view_link(count, "7", "s1")]
    results = Results(
        choice=Choice(row=a_row(), reason=reason, optimism=0.0), rows=[a_row()], failures=[failed]
    )
    note = result_note(results, links, "The plan.")
    assert len(note) <= 8_000 and note.startswith(reason)
    parts = note.removeprefix(reason).split("\n\n")[1:]
    everything = [failures_in_words([failed]) + ".", *links, "The plan."]
    assert [part for part in everything if part in parts] == parts
    if long < 400:
        assert parts == everything
    for tag in (*result_tags(results).values(), note):
        assert len(tag) <= 8_000
