"""Small values that tests of several modules build upon: specs, plans, rows, outcomes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from rich.console import Console

from sweeps.events.event_types import (
    CellEnded,
    TrunkEnded,
)
from sweeps.final_model.calibration import calibrate
from sweeps.final_model.int8_net import Int8Net
from sweeps.final_model.outcome import Outcome, PairedGain
from sweeps.final_model.served_latency import ServedLatency
from sweeps.output.sweep_record import SweepRecord, new_sweep_record
from sweeps.planning.grid import resolve_grid
from sweeps.planning.plan import Plan
from sweeps.planning.spec import SweepSpec, identity
from sweeps.selection.choice import Choice
from sweeps.selection.leaderboard import Row
from trainables.evaluation.metrics import Score
from trainables.fixres.head_settings import HeadSetting
from trainables.fixres.predictions import Predictions
from trainables.models.weights import Weights
from trainables.profiling.cost import Cost
from trainables.profiling.latency import Conditions, Latency
from trainables.training.recipe import Hyper
from trainables.training.trunk import EpochReport, TrunkSpec, TrunkStatus

LEDGER_TRAIN, LEDGER_VAL = 1000, 200
LEDGER_ARMS = ("none", "bn", "fix")
# Of each arm of a cell. A pass over val takes 2 s, one over train 20 s: 0.01 or 0.02 s an image.
ARM_SECONDS = {"none": 2.0, "pool": 0.1, "bn": 20.0, "frechet": 30.0, "fix": 3.0}
ARM_SECONDS |= {"fix_aug": 40.0, "fix_affine": 9.0}


FIX_HEAD = HeadSetting(optimizer="sgd", lr=0.03, label_smoothing=0.1, weight_decay=1e-4, epochs=5)
HEAD = HeadSetting(optimizer="adamw", lr=0.1, label_smoothing=0.0, weight_decay=0.01, epochs=5)

HYPER = Hyper(lr=1e-3, weight_decay=0.01, label_smoothing=0.1)


def spec_with(base: SweepSpec | None = None, /, **options: Any) -> SweepSpec:
    """A spec with these options, each by its own name, whatever its group."""
    spec = base or SweepSpec()
    for group in fields(SweepSpec):
        old = getattr(spec, group.name)
        own = {f.name: options.pop(f.name) for f in fields(old) if f.name in options}
        spec = replace(spec, **{group.name: replace(old, **own)})
    assert not options, f"no such options: {options}"
    return spec


def is_one_sentence(message: str) -> bool:
    return message.endswith(".") and ". " not in message and "\n" not in message


def plan_of(
    spec: SweepSpec, train: int = 120, val: int = 50, test: int = 40, *, weights: bool = False
) -> Plan:
    """A plan with made-up costs: the i-th variant takes i + 1 GMACs at 100 px.

    Args:
        weights: whether there are pretrained weights, so that untouched nets are points too.
    """
    grid = resolve_grid(spec, np.full((train, 2), 100))
    return Plan(
        spec=spec,
        grid=grid,
        images_digest="0123456789abcdef",
        counts={"train": train, "val": val, "test": test},
        classes=("cat", "dog", "fox"),
        class_sizes=(90, 70, train + val + test - 160),
        train_class_sizes=(train // 2, train // 3, train - train // 2 - train // 3),
        layout="class folders",
        weights={
            w.variant: replace(w, source="hub", digest="d", name=f"{w.variant}-d") if weights else w
            for w in weights_of(spec)
        },
        costs={
            (v, r): Cost(
                params_m=4.0 + i,
                gmacs=(i + 1) * (r / 100) ** 2,
                activations_m=10 * (i + 1) * (r / 100) ** 2,
                memory_mb=16.0 + (r / 100) ** 2,
            )
            for i, v in enumerate(spec.grid.variants)
            for r in {*grid.train_res, *grid.test_res}
        },
    )


def a_row(hits: int = 30, n: int = 50, **other: Any) -> Row:
    """A row of the arm "fix" on val, unless told otherwise."""
    arm = other.get("arm", "fix")
    values: dict[str, Any] = {
        "variant": "b0",
        "train_res": 64,
        "test_res": 96,
        "crop_pct": 1.0,
        "arm": arm,
        "split": "val",
        "n": n,
        "top1": hits / n,
        "top5": min(1.0, hits / n + 0.1),
        "params_m": 4.0,
        "gmacs": 0.5,
        "memory_mb": 32.0,
        "latency_ms": None,
        "images_s": None,
        "seconds": 2.5,
        "trunk": "t1",
        "trunk_epochs": 6,
        "head": FIX_HEAD if arm.startswith("fix") else None,
        "head_tried": 30 if arm.startswith("fix") else 0,
    } | other
    axes = ("variant", "trunk", "train_res", "test_res", "crop_pct")
    cell = " ".join(str(values[axis]) for axis in axes)
    return Row(**{"cell": cell, **values})


CONDITIONS = Conditions(
    runtime="onnx", version="1.2.3", device="A CPU", precision="float32", threads=2, batch=1,
    throughput_batch=32,
)  # fmt: skip


def a_served_latency(ms: float, **conditions: Any) -> ServedLatency:
    latency = Latency(latency_ms=ms, low_ms=ms - 0.5, high_ms=ms + 1, runs=50, images_s=1e3 / ms)
    return ServedLatency(conditions=replace(CONDITIONS, **conditions), latency=latency)


def outcome_of(
    rows: list[Row],
    choice: Choice | None = None,
    *,
    gains: Mapping[str, PairedGain] | None = None,
    gains_on_untouched: Mapping[str, PairedGain] | None = None,
    refit: bool = False,
    test_cells: int = 1,
    predictions: Sequence[Predictions] = (),
    val_as_served: Mapping[str, Score] | None = None,
    latency: Conditions | None = None,
    served_latency: ServedLatency | None = None,
    int8: Int8Net | None = None,
) -> Outcome:
    """An outcome; the first row is chosen unless there is a choice."""
    return Outcome(
        rows=rows,
        choice=choice or Choice(row=rows[0], reason="It is the best.", optimism=0.0),
        gains=gains or {},
        gains_on_untouched=gains_on_untouched or {},
        refit=refit,
        test_cells=test_cells,
        val_as_served=val_as_served or {},
        calibration=calibrate(predictions, refit=refit),
        predictions=tuple(predictions),
        latency=latency,
        served_latency=served_latency,
        int8=int8,
    )


def an_int8_net(hits: int = 45, n: int = 50) -> Int8Net:
    served = a_served_latency(1.5, precision="int8")
    return Int8Net(
        calibrated_on=256, bytes=3_800_000, float_bytes=13_500_000, difference=-0.02, error=0.014,
        test=Score(split="test", n=n, hits1=hits, hits5=n), conditions=served.conditions,
        latency=served.latency, float_latency=a_served_latency(2.5).latency,
    )  # fmt: skip


def predictions_of(
    split: str = "val", n: int = 50, classes: int = 3, *, sharpness: float = 3.0, seed: int = 0
) -> Predictions:
    """Logits that are ``sharpness`` times as far apart as their labels bear out."""
    rng = np.random.default_rng([seed, *split.encode()])
    logits = rng.normal(0, 4, (n, classes)).astype(np.float32)
    labels = (logits / sharpness + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return Predictions(split=split, labels=labels, predicted=logits.argmax(axis=1), logits=logits)


def output_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def file_console(width: int = 300) -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=width, highlight=False)


def a_ledger_plan(arms: Sequence[str] = LEDGER_ARMS, **options: object) -> Plan:
    """Two points; four test resolutions each, at one crop ratio."""
    grid = {"variants": ("b0",), "train_res": (64, 96), "test_res": (64, 96, 128, 160)}
    trunks = {"epochs": 6, "samples": 2, "grace_epochs": 2}
    spec = spec_with(**{**grid, **trunks, "test_crop_pct": (1.0,), "arms": arms, **options})
    return plan_of(spec, train=LEDGER_TRAIN, val=LEDGER_VAL)


def a_ledger_trunk(plan: Plan, point: int, lr: float) -> TrunkSpec:
    return plan.trunk(plan.points[point], Hyper(lr=lr, weight_decay=0.01, label_smoothing=0.1))


def an_ended_trunk(
    trunk: TrunkSpec, seconds: Sequence[float], status: TrunkStatus = TrunkStatus.FINISHED
) -> TrunkEnded:
    """An epoch for each of ``seconds``, val scored at two test resolutions in the second."""
    score = Score(split="val", n=LEDGER_VAL, hits1=100, hits5=150)
    reports = tuple(
        EpochReport(
            epoch=epoch, loss=1.0, train_top1=0.5, images=LEDGER_TRAIN, lr=1e-3, seconds=s, at=0,
            val={64: score, 96: score} if epoch == 2 else {},
        )
        for epoch, s in enumerate(seconds, start=1)
    )  # fmt: skip
    return TrunkEnded(trunk=trunk, status=status, reports=reports)


def an_ended_cell(
    plan: Plan,
    trunk: TrunkSpec,
    res: int,
    tried: int = 30,
    seconds: Mapping[str, float] | None = None,
) -> CellEnded:
    cell = plan.cell(trunk, trunk.recipe.epochs, res, 1.0)
    rows = tuple(
        a_row(
            train_res=trunk.train_res, test_res=res, arm=arm, trunk=trunk.key, cell=cell.key,
            seconds=(ARM_SECONDS | dict(seconds or {}))[arm],
            head_tried=tried if arm.startswith("fix") else 0,
        )
        for arm in plan.spec.fix.arms
    )  # fmt: skip
    return CellEnded(cell=cell, rows=rows)


def weights_of(spec: SweepSpec) -> list[Weights]:
    return [Weights(variant=v, source="none", digest="none", name=None) for v in spec.grid.variants]


def a_record(storage: str | None = None, **options: Any) -> SweepRecord:
    """The record of a sweep with these options, of classes "a" and "b"."""
    spec = spec_with(**options)
    return new_sweep_record(spec, identity(spec, "d1"), storage, ("a", "b"))
