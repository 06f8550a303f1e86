"""The leaderboard as an Arrow table and back."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweeps.planning.grid import Point
from sweeps.planning.options.hyperparameters import hyperparameters
from sweeps.selection.leaderboard import (
    SCHEMA,
    Row,
    crossfit_note,
    from_record,
    from_table,
    make_row,
    read,
    to_record,
    to_table,
    write,
)
from tests.factories import FIX_HEAD, HEAD, HYPER, a_row, is_one_sentence, plan_of, spec_with
from trainables.errors import UserError
from trainables.evaluation.class_metrics import IN_WORDS
from trainables.evaluation.metrics import Score
from trainables.fixres.cell import ArmResult
from trainables.fixres.head_settings import HeadSetting
from trainables.profiling.cost import Cost

CROSSFIT = ["crossfit_top1", "crossfit_balanced_accuracy", "crossfit_macro_f1"]
ROWS = [
    a_row(arm="none", hits=20),
    a_row(hits=31, balanced_accuracy=0.5, macro_f1=0.45),
    a_row(hits=3, n=7, split="test", variant="l2", top5=1.0),
    a_row(hits=0, seconds=0.0, gmacs=170.9, memory_mb=2668.1, params_m=480.3),
]


def test_round_trip_through_arrow_and_parquet(tmp_path: Path) -> None:
    assert from_table(to_table(ROWS)) == ROWS
    write(tmp_path / "leaderboard.parquet", ROWS)
    assert read(tmp_path / "leaderboard.parquet") == ROWS
    assert [p.name for p in tmp_path.iterdir()] == ["leaderboard.parquet"]


def test_schema_has_the_fields_names_and_plain_types(tmp_path: Path) -> None:
    write(tmp_path / "leaderboard.parquet", ROWS)
    schema = pq.read_schema(tmp_path / "leaderboard.parquet")
    head = [
        f"head_{n}"
        for n in ("optimizer", "lr", "smoothing", "weight_decay", "epochs", "class_weights")
    ]
    settings = [f"with_{name}" for name in hyperparameters()]
    names = [f.name for f in fields(Row)]
    at = names.index("head")
    assert names[-1] == "trained_with"
    assert schema.names == SCHEMA.names == [*names[:at], *head, *names[at + 1 : -1], *settings]
    others = [str(SCHEMA.field(name).type) for name in settings]
    assert [kind for kind in others if "double" not in kind] == [
        *("int64", "string", "string", "bool", "bool"),
        *("string", "int64", "bool", "string", "string", "string"),
    ]
    types = {f.name: str(f.type) for f in schema}
    assert {types[n] for n in ("variant", "arm", "split", "trunk", "cell")} == {"string"}
    assert {types[n] for n in ("train_res", "test_res", "n", "head_epochs")} == {"int64"}
    assert {types[n] for n in ("top1", "params_m", "gmacs", "memory_mb", "head_lr")} == {"double"}
    nullable = {f.name for f in SCHEMA if f.nullable}
    assert nullable == {n for n in SCHEMA.names if n.startswith("head_")} - {"head_tried"} | {
        "latency_ms",
        "images_s",
        "balanced_accuracy",
        "macro_f1",
        "on_untouched",
        "on_untouched_error",
        *CROSSFIT,
        *(f"{kind}_{metric}" for kind in ("mean", "sd") for metric in IN_WORDS),
        *(f"with_{name}" for name in hyperparameters()),
    }


def test_what_a_trunk_was_trained_with_comes_back(tmp_path: Path) -> None:
    space: dict[str, Any] = {"optimizer": {"choices": ["sgd", "adamw"]}}
    plan = plan_of(spec_with(space=space, batch_size=64))
    trunk = plan.trunk(plan.points[0], HYPER, {"optimizer": "sgd"})
    score = Score(split="val", n=50, hits1=20, hits5=45)
    cost = Cost(params_m=4.0, gmacs=0.5, activations_m=6.7, memory_mb=32.0)
    result = ArmResult(arm="none", score=score, seconds=1.5)
    row = make_row(plan.cell(trunk, 6, 160, 0.875), cost, result)
    assert dict(row.trained_with) == {
        "lr": 1e-3, "weight_decay": 0.01, "label_smoothing": 0.1, "batch_size": 64,
        "optimizer": "sgd", "schedule": "cosine", "warmup_epochs": 0.5, "ema_decay": 0.0,
        "ema_warmup": False, "drop_path": 0.0, "layer_decay": 1.0, "clip_grad": 0.0,
        "dropout": True, "crop_scale": (0.25, 1.0), "hflip": 0.5, "sampling": "uniform",
        "class_weights": "none", "start": "weights", "head_only_epochs": 0,
        "freeze_batch_norm": False, "auto_augment": "none", "mixup": 0.0, "cutmix": 0.0,
        "random_erasing": 0.0,
    }  # fmt: skip
    write(tmp_path / "l.parquet", [row, *ROWS])
    assert read(tmp_path / "l.parquet") == [row, *ROWS]
    assert from_record(json.loads(json.dumps(to_record(row)))) == row
    with pytest.raises(ValueError, match="is not a number"):
        from_record(to_record(row) | {"with_lr": "fast"})
    untouched = plan.cell(replace(trunk, recipe=replace(trunk.recipe, epochs=0)), 0, 160, 0.875)
    assert make_row(untouched, cost, result).trained_with == ()


def test_the_head_is_flat_in_a_record_and_whole_in_a_row() -> None:
    for row in ROWS:
        record = to_record(row)
        assert list(record) == SCHEMA.names and from_record(record) == row
    fitted = to_record(a_row(arm="fix"))
    assert (fitted["head_optimizer"], fitted["head_smoothing"], fitted["head_epochs"]) == (
        *("sgd", 0.1, 5),
    )
    assert a_row(arm="fix").head_in_words.startswith("sgd, lr 0.03, smoothing 0.1, weight decay ")
    assert a_row(arm="none").head_in_words == ""


def test_no_rows_make_an_empty_table_of_the_same_schema() -> None:
    assert to_table([]).schema == SCHEMA
    assert from_table(to_table([])) == []


def test_a_missing_value_where_one_must_be_is_refused() -> None:
    number: Any = 7
    wrong = replace(ROWS[0], variant=number)
    with pytest.raises(pa.ArrowTypeError):
        to_table([wrong])


@pytest.mark.parametrize(
    "written",
    [
        to_table(ROWS).drop_columns(["memory_mb"]),
        to_table(ROWS).append_column("price", pa.array([1.0] * len(ROWS))),
    ],
    ids=["earlier", "later"],
)
def test_a_file_of_another_version_is_refused(written: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.parquet"
    pq.write_table(written, path)
    (name,) = set(written.column_names) ^ set(SCHEMA.names)
    with pytest.raises(UserError, match="another version") as refusal:
        read(path)
    message = str(refusal.value)
    assert str(path) in message and name in message and is_one_sentence(message)


def test_a_file_without_the_metrics_by_class_is_read_without_them(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.parquet"
    pq.write_table(to_table(ROWS).drop_columns(["balanced_accuracy", "macro_f1"]), path)
    bare = [replace(row, balanced_accuracy=None, macro_f1=None) for row in ROWS]
    assert read(path) == bare


def test_a_file_from_before_class_weights_has_classifiers_without_any(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.parquet"
    rows = [a_row(arm="fix"), a_row(arm="none")]
    pq.write_table(to_table(rows).drop_columns(["head_class_weights"]), path)
    assert read(path) == rows
    weighted = a_row(arm="fix", head=replace(FIX_HEAD, class_weights="balanced"))
    write(path, [weighted, *rows])
    assert read(path) == [weighted, *rows]
    assert ", class weights balanced, 5 epochs; of 30 tried" in weighted.head_in_words
    assert "class weights" not in rows[0].head_in_words


def test_a_file_from_before_cross_fitting_is_read_and_its_fitted_rows_are_flattered(
    tmp_path: Path,
) -> None:
    path = tmp_path / "leaderboard.parquet"
    rows = [a_row(45, arm="fix"), a_row(40, arm="none"), a_row(41, arm="fix", split="test")]
    pq.write_table(to_table(rows).drop_columns(CROSSFIT), path)
    assert read(path) == rows
    assert [row.is_flattered for row in read(path)] == [True, False, False]
    assert not a_row(45, arm="fix", crossfit_top1=0.8).is_flattered


def test_rows_compare_by_cross_fitted_values_where_there_are_any() -> None:
    row = a_row(45, 50, crossfit_top1=43 / 50, macro_f1=0.7, crossfit_macro_f1=0.6)
    assert (row.hits1, row.ranked_hits1, row.ranked_top1) == (45, 43, 0.86)
    assert (row.value("top1"), row.kept_value("top1")) == (0.86, 0.9)
    assert (row.value("macro_f1"), row.kept_value("macro_f1")) == (0.6, 0.7)
    plain = a_row(45, 50, arm="bn")
    assert plain.ranked_hits1 == plain.hits1 == 45
    assert crossfit_note([plain]) == "" and crossfit_note([plain, row]) == ", cross-fitted"


@pytest.mark.parametrize("n", [1, 3, 7, 50, 999, 50_000])
def test_hits_come_back_from_their_share(n: int) -> None:
    for hits in {0, 1, n // 3, n // 2, n - 1, n}:
        assert a_row(hits=hits, n=n).hits1 == hits


@pytest.mark.parametrize("head", [None, HEAD], ids=["none", "fix"])
def test_a_row_places_an_arms_result(head: HeadSetting | None) -> None:
    plan = plan_of(spec_with())
    trunk = plan.trunk(Point(variant="b0", train_res=128), HYPER)
    cell = plan.cell(trunk, 6, 160, 0.875)
    arm = ArmResult(
        arm="fix" if head else "none",
        score=Score(split="val", n=50, hits1=20, hits5=45),
        seconds=1.5,
        head=head,
        head_tried=30 if head else 0,
        crossfit={"top1": 0.36, "balanced_accuracy": 0.3, "macro_f1": 0.2} if head else None,
    )
    made = make_row(cell, Cost(params_m=4.0, gmacs=0.5, activations_m=6.7, memory_mb=32.0), arm)
    assert (made.variant, made.train_res, made.test_res) == ("b0", 128, 160)
    assert (made.top1, made.top5, made.n, made.hits1, made.split) == (0.4, 0.9, 50, 20, "val")
    assert (made.params_m, made.gmacs, made.memory_mb) == (4.0, 0.5, 32.0)
    assert (made.trunk, made.cell, made.trunk_epochs) == (trunk.key, cell.key, 6)
    assert made.head == head
    assert made.ranked_hits1 == (18 if head else 20)
    assert made.crossfit_macro_f1 == (0.2 if head else None)
    assert made.label == "b0 128 -> 160 px, crop 0.875"


def test_a_row_of_two_passes_costs_twice_the_work() -> None:
    plan = plan_of(spec_with())
    cell = plan.cell(plan.trunk(Point(variant="b0", train_res=128), HYPER), 6, 160, 0.875)
    cost = Cost(params_m=4.0, gmacs=0.5, activations_m=6.7, memory_mb=32.0)
    score = Score(split="val", n=50, hits1=20, hits5=45)
    plain, mirrored = (
        make_row(cell, cost, ArmResult(arm=arm, score=score, seconds=1.0))
        for arm in ("none", "none_flip")
    )
    assert mirrored.gmacs == 2 * plain.gmacs and mirrored.params_m == plain.params_m
    weights_mb = 4 * 4.0
    assert mirrored.memory_mb - weights_mb == 2 * (plain.memory_mb - weights_mb)
