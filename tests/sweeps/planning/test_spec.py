"""The options: which are refused, how, and what tells one sweep from another."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler

from sweeps.planning.recipes import RECIPES, builtin_digits
from sweeps.planning.spec import (
    ArmName,
    SweepSpec,
    differences,
    identity,
    option,
    spec_from_json,
    with_options,
)
from sweeps.planning.validation import check_spec
from tests.factories import is_one_sentence, spec_with
from trainables.errors import UserError
from trainables.fixres.arms import ARMS
from trainables.storage.hashing import to_jsonable
from trainables.train import SETTING_NAMES


def option_names() -> list[str]:
    return [f.name for group in fields(SweepSpec) for f in fields(getattr(SweepSpec(), group.name))]


@pytest.mark.parametrize("spec", [SweepSpec(), builtin_digits()])
def test_what_comes_ready_made_can_be_run(spec: SweepSpec) -> None:
    assert check_spec(spec) is spec


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_can_be_run_where_there_are_images(recipe: str, tmp_path: Path) -> None:
    spec = spec_with(RECIPES[recipe](), data=str(tmp_path))
    assert check_spec(spec).grid.recipe == recipe


def test_ranges_may_be_single_values_and_smoothing_none() -> None:
    check_spec(
        spec_with(
            lr=(1e-3, 1e-3),
            weight_decay=(0.1, 0.1),
            label_smoothing=(0.0, 0.0),
            crop_scale=(1.0, 1.0),
            variants=("l2",),
            train_res=(32,),
            test_res=(32,),
            grace_epochs=100,
            warmup_epochs=0.0,
            hflip=1.0,
        )
    )


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"variants": ("b0", "b9")}, "--variants", "b9"),
    ({"variants": ("efficientnet_b0",)}, "--variants", "choose from b0, b1"),
    ({"variants": ()}, "--variants", "is empty"),
    ({"variants": ("b0", "b1", "b0")}, "--variants b0 b1 b0", "give each value once"),
    ({"train_res": (31, 64)}, "--train-res 31", "at least 32"),
    ({"test_res": (64, 0)}, "--test-res 0", "at least 32"),
    ({"train_res": (64, 64)}, "--train-res 64 64", "give each value once"),
    ({"test_res": (64, 96, 64)}, "--test-res 64 96 64", "give each value once"),
    ({"lr": (1e-2, 1e-3)}, "--lr 0.01 0.001", "lower end first"),
    ({"lr": (0.0, 1e-3)}, "--lr 0.0", "more than 0"),
    ({"lr": (1e-3, float("inf"))}, "--lr inf", "more than 0"),
    ({"lr": (float("nan"), 1e-3)}, "--lr nan", "more than 0"),
    ({"weight_decay": (0.0, 0.1)}, "--weight-decay 0.0", "more than 0"),
    ({"weight_decay": (-0.1, 0.1)}, "--weight-decay -0.1", "more than 0"),
    ({"label_smoothing": (0.2, 0.1)}, "--label-smoothing 0.2 0.1", "lower end first"),
    ({"label_smoothing": (-0.1, 0.1)}, "--label-smoothing -0.1", "from 0 to below 1"),
    ({"label_smoothing": (0.0, 1.0)}, "--label-smoothing 1.0", "from 0 to below 1"),
    ({"crop_scale": (0.0, 1.0)}, "--crop-scale 0.0", "above 0 to 1"),
    ({"crop_scale": (0.5, 1.5)}, "--crop-scale 1.5", "above 0 to 1"),
    ({"epochs": -1}, "--epochs -1", "at least 0"),
    ({"epochs": 0}, "--epochs 0", "--data"),
    ({"epochs": 0, "weights": "none", "data": "/"}, "--epochs 0", "--weights none"),
    ({"recipe": "fixres"}, "--recipe fixres", "--data DIR"),
    ({"samples": 0}, "--samples 0", "at least 1"),
    ({"batch_size": 1}, "--batch-size 1", "at least 2"),
    ({"grace_epochs": 0}, "--grace-epochs 0", "at least 1"),
    ({"reduction": 1}, "--reduction 1", "at least 2"),
    ({"survivors": 0}, "--survivors 0", "at least 1"),
    ({"head_batch_size": 0}, "--head-batch-size 0", "at least 1"),
    ({"head_epochs": 0}, "--head-epochs 0", "at least 1"),
    ({"head_patience": 0}, "--head-patience 0", "at least 1"),
    ({"head_optimizer": ()}, "--head-optimizer", "is empty"),
    ({"head_weight_decay": (1e-4, -1.0)}, "--head-weight-decay -1.0", "at least 0"),
    ({"arms": ()}, "--arms", "is empty"),
    ({"arms": ("fix", "fix")}, "--arms fix fix", "give each value once"),
    ({"arms": ("pool",)}, "--arms pool", "no net to hand over"),
    (
        {"arms": ("fix_aug",), "head_smoothing": (0.0,)},
        "--arms fix_aug",
        "a --head-smoothing above 0",
    ),
    ({"views": 0}, "--views 0", "at least 1"),
    ({"test_crop_pct": 0.0}, "--test-crop-pct 0.0", "above 0 to 1"),
    ({"also_test": ("v2",)}, "--also-test v2", "is not NAME=DIR"),
    ({"also_test": ("test=/",)}, "--also-test test=/", "not train, val or test"),
    ({"also_test": ("v2=/no/such",)}, "--also-test v2=/no/such", "does not exist"),
    ({"also_test": ("v2=/", "v2=/tmp")}, "--also-test v2=/ v2=/tmp", "a name of its own"),
    ({"head_lr": (0.1, -0.1)}, "--head-lr -0.1", "more than 0"),
    ({"head_lr": (0.1, float("nan"))}, "--head-lr nan", "more than 0"),
    ({"head_lr": (0.1, 0.1)}, "--head-lr 0.1 0.1", "give each value once"),
    ({"head_lr": ()}, "--head-lr", "is empty"),
    ({"head_smoothing": (0.1, -0.1)}, "--head-smoothing -0.1", "from 0 to below 1"),
    ({"head_smoothing": (1.5,)}, "--head-smoothing 1.5", "from 0 to below 1"),
    ({"cache_side": 16}, "--cache-side 16", "at least 32"),
    ({"cache_gb": 0.0}, "--cache-gb 0.0", "more than 0"),
    ({"seed": -1}, "--seed -1", "from 0"),
    ({"seed": 2**63}, "--seed 9223372036854775808", "from 0"),
    ({"concurrency": 0}, "--concurrency 0", "at least 1"),
    ({"cpus_per_trial": 0}, "--cpus-per-trial 0", "at least 1"),
    ({"gpus_per_trial": -1.0}, "--gpus-per-trial -1.0", "at least 0"),
    ({"gpu_memory_gb": 0.0}, "--gpu-memory-gb 0.0", "more than 0"),
    ({"workers_per_trial": 0}, "--workers-per-trial 0", "at least 1"),
    ({"workers_per_trial": 3, "batch_size": 5}, "--batch-size of 5", "two images for each"),
    ({"price_per_hour": -0.5}, "--price-per-hour -0.5", "at least 0"),
    ({"price_per_hour": float("nan")}, "--price-per-hour nan", "at least 0"),
    ({"warmup_epochs": -0.5}, "--warmup-epochs -0.5", "at least 0"),
    ({"warmup_epochs": float("nan")}, "--warmup-epochs nan", "at least 0"),
    ({"warmup_epochs": 99.0}, "--warmup-epochs 99.0", "warm up for less"),
    ({"val_share": 0.0}, "--val-share 0.0", "above 0 to below 0.5"),
    ({"test_share": 0.5}, "--test-share 0.5", "above 0 to below 0.5"),
    ({"val_share": float("nan")}, "--val-share nan", "above 0 to below 0.5"),
    ({"val_share": 0.45, "test_share": 0.45}, "--val-share 0.45", "too little to train on"),
    ({"max_corrupt": 1.01}, "--max-corrupt 1.01", "from 0 to 1"),
    ({"hflip": -0.1}, "--hflip -0.1", "from 0 to 1"),
    ({"ema_decay": 1.0}, "--ema-decay 1.0", "from 0 to below 1"),
    ({"max_gmacs": 0.0}, "--max-gmacs 0.0", "more than 0"),
    ({"max_memory_mb": 0.0}, "--max-memory-mb 0.0", "more than 0"),
    ({"max_latency_ms": 0.0}, "--max-latency-ms 0.0", "more than 0"),
    ({"min_top1": 90.0}, "--min-top1 90.0", "above 0 to 1"),
    ({"experiment": " "}, "--experiment", "is empty"),
    ({"weights": "/no/such/folder"}, "--weights /no/such/folder", "auto, none or a folder"),
    ({"data": "/no/such/folder"}, "--data /no/such/folder", "does not exist"),
    ({"data": "s3:///prefix"}, "s3:///prefix", "names no bucket"),
    ({"also_test": ("v2=nowhere://b/x",)}, "nowhere://b/x", "in no store that is known"),
    ({"data": "s3://key:secret@bucket/x"}, "s3://...@bucket/x", "holds credentials"),
]


@pytest.mark.parametrize(("options", "named", "words"), REFUSED, ids=lambda v: str(v)[:50])
def test_refuses_in_one_sentence_that_names_the_option(
    options: dict[str, Any], named: str, words: str
) -> None:
    with pytest.raises(UserError) as refusal:
        check_spec(spec_with(**options))
    message = with_options(str(refusal.value))
    assert named in message and words in message
    assert is_one_sentence(message)


def test_takes_data_that_is_there(tmp_path: Path) -> None:
    check_spec(spec_with(data=str(tmp_path)))
    check_spec(spec_with(data=tmp_path.as_uri()))
    check_spec(spec_with(data=str(tmp_path), epochs=0, also_test=(f"v2={tmp_path}",)))
    further = spec_with(also_test=("v2=/a=b", "r=~")).extra_test_sets
    assert further == {"v2": "/a=b", "r": "~"}


def test_resolutions_may_be_words() -> None:
    check_spec(spec_with(train_res="native", test_res="auto"))
    check_spec(spec_with(test_res="published"))


@pytest.mark.parametrize("reduction", [2, 3, 4, 10])
@pytest.mark.parametrize("grace", [1, 2, 3, 7])
def test_rungs_are_those_of_rays_asha(grace: int, reduction: int) -> None:
    for epochs in (1, 2, 3, 4, 5, 6, 8, 9, 16, 20, 27, 50, 81, 100, 243, 1000):
        rungs = spec_with(epochs=epochs, grace_epochs=grace, reduction=reduction).rungs
        asha = AsyncHyperBandScheduler(
            max_t=epochs, grace_period=min(grace, epochs), reduction_factor=reduction
        )
        rays = {int(milestone) for milestone, _ in asha._brackets[0]._rungs}
        assert rungs == (*sorted(rays - {epochs}), epochs)


# --- identity ---------------------------------------------------------------------------------


# What may differ when a sweep is continued: where and how fast it runs.
FREE = {
    "data": "/elsewhere",
    "cache_dir": Path("/elsewhere"),
    "cache_gb": 5.0,
    "max_corrupt": 0.5,
    "out": Path("/elsewhere"),
    "storage": "s3://elsewhere/sweep",
    "concurrency": 4,
    "cpus_per_trial": 3,
    "gpus_per_trial": 0.5,
    "gpu_memory_gb": 24.0,
    "workers_per_trial": 2,
    "tracking_uri": "http://elsewhere",
    "experiment": "another",
    "register_as": "another",
    "also_test": ("v2=/elsewhere",),
    "price_per_hour": 2.5,
    "keep": "best",
    "dry_run": True,
}
BINDING: dict[str, Any] = {
    "val_share": 0.2,
    "test_share": 0.2,
    "cache_side": 512,
    "recipe": "fixres",
    "variants": ("b1",),
    "train_res": (96,),
    "test_res": (96,),
    "weights": "none",
    "epochs": 7,
    "samples": 7,
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
    "grace_epochs": 3,
    "reduction": 2,
    "survivors": 2,
    "arms": ("fix",),
    "test_crop_pct": 0.9,
    "interpolation": "bilinear",
    "views": 3,
    "head_lr": (0.1,),
    "head_smoothing": (0.2,),
    "head_weight_decay": (0.1,),
    "head_optimizer": ("adamw",),
    "head_epochs": 3,
    "head_patience": 3,
    "head_batch_size": 8,
    "max_params_m": 5.0,
    "max_gmacs": 1.0,
    "max_memory_mb": 30.0,
    "max_latency_ms": 10.0,
    "min_top1": 0.5,
    "seed": 1,
    "refit": True,
}


def test_every_option_either_binds_a_sweep_or_is_free() -> None:
    assert sorted([*FREE, *BINDING]) == sorted(option_names())


@pytest.mark.parametrize("name", FREE)
def test_a_sweep_may_be_continued_with_another(name: str) -> None:
    asked = spec_with(**{name: FREE[name]})
    assert asked != SweepSpec()
    assert identity(asked, "d1") == identity(SweepSpec(), "d1")


@pytest.mark.parametrize("name", BINDING)
def test_another_value_makes_another_sweep_and_is_named(name: str) -> None:
    old, new = identity(SweepSpec(), "d1"), identity(spec_with(**{name: BINDING[name]}), "d1")
    (line,) = differences(old, new)
    words = [
        " ".join(map(str, v)) if isinstance(v, tuple) else str(v)
        for v in (getattr_flat(SweepSpec(), name), BINDING[name])
    ]
    assert line == f"--{name.replace('_', '-')} was {words[0]}, now {words[1]}"


def getattr_flat(spec: SweepSpec, name: str) -> Any:
    groups = [getattr(spec, group.name) for group in fields(spec)]
    return next(getattr(group, name) for group in groups if hasattr(group, name))


def test_other_images_make_another_sweep() -> None:
    old, new = identity(SweepSpec(), "d1"), identity(SweepSpec(), "d2")
    assert differences(old, new) == ["the images were d1, now d2"]


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
    asked = identity(spec_with(max_memory_mb=30.0), "d1")
    assert differences(earlier, asked) == ["--max-memory-mb was None, now 30.0"]


def test_identity_survives_json() -> None:
    asked = identity(builtin_digits(), "d1")
    assert differences(json.loads(json.dumps(asked)), asked) == []
    assert json.loads(json.dumps(to_jsonable(asked))) == asked


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


def test_no_two_options_share_a_name() -> None:
    names = [option(name) for name in option_names()]
    assert len(names) == len(set(names))


def test_errors_name_settings_as_options() -> None:
    assert with_options("`variant` b9: a `cache_dir`.") == "--variants b9: a --cache-dir."
    for name in SETTING_NAMES:  # all that the core names
        assert "`" not in with_options(f"`{name}`")


def test_a_spec_is_read_as_it_was_written() -> None:
    spec = spec_with(data="s3://bucket/a", train_res=(64, 96), test_res="auto", lr=(0.1, 0.2))
    for one in (spec, SweepSpec()):
        assert spec_from_json(json.loads(json.dumps(to_jsonable(one)))) == one
