"""The options: the rungs they make, and what tells one sweep from another."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest

from sweeps.planning.options.groups import ArmName
from sweeps.planning.options.words import option
from sweeps.planning.recipes import builtin_digits
from sweeps.planning.spec import (
    EXTENDING,
    SweepSpec,
    as_written_now,
    binding_differences,
    differences,
    identity,
    spec_from_json,
    with_options,
)
from tests.factories import spec_with
from trainables.fixres.arms import ARMS
from trainables.storage.hashing import to_jsonable
from trainables.train import SETTING_NAMES


def option_names() -> list[str]:
    return [f.name for group in fields(SweepSpec) for f in fields(getattr(SweepSpec(), group.name))]


def test_extra_test_sets_are_named_by_what_stands_before_the_first_equals_sign() -> None:
    spec = spec_with(also_test=("v2=/a=b", "r=~"))
    assert spec.extra_test_sets == {"v2": "/a=b", "r": "~"}


# --- identity ---------------------------------------------------------------------------------


# What may differ when a sweep is continued: where and how fast it runs.
FREE = {
    "data": "/elsewhere",
    "layout": "folders",
    "class_order": "natural",
    "pick_share": 0.1,
    "group_by": r"(p\d+)",
    "cache_dir": Path("/elsewhere"),
    "cache_gb": 5.0,
    "max_corrupt": 0.5,
    "out": Path("/elsewhere"),
    "storage": "s3://elsewhere/sweep",
    "link_days": 3.0,
    "int8": True,
    "openvino": True,
    "concurrency": 4,
    "cpus_per_trial": 3,
    "gpus_per_trial": 0.5,
    "gpu_memory_gb": 24.0,
    "workers_per_trial": "auto",
    "cluster_gpus": 16,
    "accelerator_type": "A10G",
    "tracking_uri": "http://elsewhere",
    "experiment": "another",
    "register_as": "another",
    "register_if": "always",
    "also_test": ("v2=/elsewhere",),
    "price_per_hour": ("2.5", "T4=1"),
    "budget_hours": 2.0,
    "max_minutes_per_trial": 30.0,
    "budget_gpu_hours": 2.0,
    "budget_cost": 5.0,
    "keep": "best",
    "precision": "fp16",
    "speed_ups": ("compile",),
    "dry_run": True,
    "config": Path("/x.yaml"),
    "print_config": True,
    "status": Path("/x"),
    "events": Path("/x.jsonl"),
    "on_end": "true",
    "remake": True,
}
# What a sweep may be continued with more or less of.
EXTENDS: dict[str, Any] = {
    "variants": ("b1",),
    "train_res": (96,),
    "test_res": (96,),
    "test_crop_pct": (0.9,),
    "untouched": False,
    "screen": 0.5,
    "samples": 7,
    "repeat": 3,
    "cascade_samples": 2,
    "survivors": 2,
    "arms": ("fix",),
    "head_lr": (0.1,),
    "head_smoothing": (0.2,),
    "head_weight_decay": (0.1,),
    "head_optimizer": ("adamw",),
    "head_class_weights": ("none", "balanced"),
}
BINDING: dict[str, Any] = {
    "val_share": 0.2,
    "test_share": 0.2,
    "cache_side": 512,
    "recipe": "fixres",
    "weights": "none",
    "epochs": 7,
    "searcher": "qmc",
    "transfer": True,
    "cascade": True,
    "cascade_epochs": 4,
    "space": {"optimizer": {"choices": ["sgd", "adamw"]}, "hflip": 0.5},
    "try_": ({"lr": 0.001}, {"variant": "b0", "lr": 0.002}),
    "batch_size": 7,
    "optimizer": "sgd",
    "schedule": "constant",
    "warmup_epochs": 0.0,
    "lr": (1e-4, 1e-3),
    "weight_decay": (0.1, 0.2),
    "label_smoothing": (0.1, 0.2),
    "ema_decay": 0.9,
    "dropout": False,
    "crop_scale": (0.5, 1.0),
    "hflip": 0.0,
    "sampling": "balanced",
    "ema_warmup": True,
    "drop_path": 0.2,
    "layer_decay": 0.7,
    "clip_grad": 1.0,
    "auto_augment": "trivial",
    "freeze_batch_norm": True,
    "start": "probe",
    "head_only_epochs": 1,
    "mixup": 0.2,
    "cutmix": 1.0,
    "random_erasing": 0.25,
    "class_weights": "sqrt",
    "grace_epochs": 3,
    "reduction": 2,
    "early_end": True,
    "interpolation": "bilinear",
    "views": 3,
    "map_gb": 0.5,
    "head_epochs": 3,
    "head_patience": 3,
    "head_batch_size": 8,
    "max_params_m": 5.0,
    "max_gmacs": 1.0,
    "max_memory_mb": 30.0,
    "max_latency_ms": 10.0,
    "min_top1": 0.5,
    "latency_runtime": "torch",
    "latency_threads": 3,
    "latency_batch": 4,
    "throughput_batch": 8,
    "seed": 1,
    "metric": "macro_f1",
    "refit": True,
}


def test_every_option_binds_a_sweep_extends_it_or_is_free() -> None:
    assert sorted([*FREE, *EXTENDS, *BINDING]) == sorted(option_names())
    assert set(EXTENDS) == EXTENDING


@pytest.mark.parametrize("name", FREE)
def test_a_sweep_may_be_continued_with_another(name: str) -> None:
    other = spec_with(**{name: FREE[name]})
    assert other != SweepSpec()
    assert identity(other, "d1") == identity(SweepSpec(), "d1")


@pytest.mark.parametrize("name", [*BINDING, *EXTENDS])
def test_another_value_makes_another_sweep_or_extends_it_and_is_named(name: str) -> None:
    other = (BINDING | EXTENDS)[name]
    old, new = identity(SweepSpec(), "d1"), identity(spec_with(**{name: other}), "d1")
    (line,) = differences(old, new)
    assert binding_differences(old, new) == ([line] if name in BINDING else [])
    words = [
        " ".join(map(str, v)) if isinstance(v, tuple) else str(v)
        for v in (getattr_flat(SweepSpec(), name), other)
    ]
    words[1] = words[1].replace("'", "")  # names in what a file held
    assert line == f"--{name.rstrip('_').replace('_', '-')} was {words[0]}, now {words[1]}"


def getattr_flat(spec: SweepSpec, name: str) -> Any:
    groups = [getattr(spec, group.name) for group in fields(spec)]
    return next(getattr(group, name) for group in groups if hasattr(group, name))


def test_other_images_make_another_sweep() -> None:
    old, new = identity(SweepSpec(), "d1"), identity(SweepSpec(), "d2")
    assert differences(old, new) == ["the images were d1, now d2"]


def test_the_order_in_which_axes_are_typed_makes_no_other_sweep() -> None:
    axes: dict[str, Any] = {
        "variants": ("b0", "b1"), "train_res": (64, 128), "test_res": (96, 128),
        "test_crop_pct": ("weights", 1.0),
    }  # fmt: skip
    other = {name: value[::-1] for name, value in axes.items()}
    old, new = (identity(spec_with(**given), "d1") for given in (axes, other))
    assert old != new and differences(old, new) == []
    fewer = identity(spec_with(**{**other, "variants": ("b1", "b2")}), "d1")
    assert len(differences(old, fewer)) == 1


def test_several_differences_are_all_named_in_order() -> None:
    new = identity(spec_with(seed=3, epochs=2, out=Path("x")), "d1")
    assert differences(identity(SweepSpec(), "d1"), new) == [
        "--epochs was 20, now 2",
        "--seed was 0, now 3",
    ]


def test_an_option_that_one_side_does_not_know_is_at_its_default_there() -> None:
    assert differences({"epochs": 2}, {"epochs": 2, "seed": 1}) == ["--seed was 0, now 1"]
    assert differences({"seed": 1}, {}) == ["--seed was 1, now 0"]
    assert differences({"epochs": 2}, {"epochs": 2, "seed": 0}) == []


def test_a_limit_that_an_earlier_version_did_not_know_is_no_difference_until_it_is_set() -> None:
    new = identity(SweepSpec(), "d1")
    earlier = {name: value for name, value in new.items() if name != "max_memory_mb"}
    assert earlier != new and differences(earlier, new) == []
    limited = identity(spec_with(max_memory_mb=30.0), "d1")
    assert differences(earlier, limited) == ["--max-memory-mb was None, now 30.0"]


def test_identity_survives_json() -> None:
    binding = identity(builtin_digits(), "d1")
    assert differences(json.loads(json.dumps(binding)), binding) == []
    assert json.loads(json.dumps(to_jsonable(binding))) == binding


def test_the_arms_are_those_of_the_table() -> None:
    assert get_args(ArmName) == tuple(ARMS)


def test_a_spec_of_the_first_release_is_read_whose_options_were_grouped_otherwise() -> None:
    spec = spec_with(seed=3, out=Path("here"), concurrency=2, keep="best", also_test=("a=b",))
    written = json.loads(json.dumps(to_jsonable(spec)))
    for group in ("output", "resources", "tracking", "evaluation"):
        written["run"] |= written.pop(group)
    assert spec_from_json(written) == spec
    del written["run"]["keep"]  # as if it had not been there yet
    assert spec_from_json(written) == replace(spec, output=replace(spec.output, keep="all"))


@pytest.mark.parametrize(
    ("written", "now"),
    [
        (  # the default of 0.1.0
            {"arms": ["none", "crop1", "bn", "fix"], "test_crop_pct": 1.0},
            {"arms": ["none", "bn", "fix"], "test_crop_pct": ["weights", 1.0]},
        ),
        (
            {"arms": ["crop1", "fix"], "test_crop_pct": 0.9},
            {"arms": ["none", "fix"], "test_crop_pct": [0.9]},
        ),
        ({"arms": ["fix"], "test_crop_pct": 0.9}, {"arms": ["fix"], "test_crop_pct": [0.9]}),
        (
            {"arms": ["none"], "test_crop_pct": ["weights"]},
            {"arms": ["none"], "test_crop_pct": ["weights"]},
        ),
        ({"seed": 1}, {"seed": 1}),
    ],
)
def test_crops_of_the_first_release_are_read_in_todays_words(
    written: dict[str, Any], now: dict[str, Any]
) -> None:
    assert as_written_now(written) == now
    assert differences(written, now) == [] == differences(now, written)


def test_a_sweep_of_the_first_releases_defaults_is_continued_by_those_of_today() -> None:
    today = identity(SweepSpec(), "d1")
    arms = ["none", "crop1", *today["arms"][1:]]
    old = today | {"arms": arms, "test_crop_pct": 1.0}
    assert old != today and differences(old, today) == []
    written = json.loads(json.dumps(to_jsonable(SweepSpec())))
    written["fix"] |= {"arms": arms, "test_crop_pct": 1.0}
    assert spec_from_json(written) == SweepSpec()


def test_no_two_options_share_a_name() -> None:
    names = [option(name) for name in option_names()]
    assert len(names) == len(set(names))


def test_errors_name_settings_as_options() -> None:
    assert with_options("`variant` b9: a `cache_dir`.") == "--variants b9: a --cache-dir."
    for name in SETTING_NAMES:  # all that the core names
        assert "`" not in with_options(f"`{name}`")


def test_a_spec_is_read_as_it_was_written() -> None:
    searched: dict[str, Any] = {name: BINDING[name] for name in ("searcher", "space", "try_")}
    spec = spec_with(
        data="s3://bucket/a", train_res=(64, 96), test_res="auto", lr=(0.1, 0.2), **searched
    )
    for one in (spec, SweepSpec()):
        assert spec_from_json(json.loads(json.dumps(to_jsonable(one)))) == one
