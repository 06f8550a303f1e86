"""The checks of a spec: what is refused, and how."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from sweeps.planning.checks.validation import check_serving, check_spec
from sweeps.planning.options.groups import ServingOptions
from sweeps.planning.spec import with_options
from tests.factories import is_one_sentence, spec_with
from trainables.errors import UserError


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


@pytest.mark.parametrize(
    ("given", "named"),
    [({"openvino": True}, "--openvino"), ({"latency_runtime": "openvino"}, "--latency-runtime")],
)
def test_openvino_is_missed_before_anything_is_trained(
    given: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=rf"^{named}\b.* needs OpenVINO") as refused:
        check_spec(spec_with(**given))
    assert is_one_sentence(str(refused.value))


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"variants": ("b0", "b9")}, "--variants", "b9"),
    ({"variants": ("efficientnet_b0",)}, "--variants", "choose from b0, b1"),
    ({"variants": ()}, "--variants", "is empty"),
    ({"variants": ("timm:resnet51",)}, "--variants timm:resnet51", "knows"),
    ({"variants": ("timm:vit_tiny_patch16_224",)}, "--variants timm:vit", "transformers"),
    (
        {"variants": ("b0", "timm:convnext_atto"), "arms": ("bn", "pool")},
        "--arms bn pool",
        "nothing to adapt in timm:convnext_atto",
    ),
    (
        {"variants": ("b0", "timm:ghostnet_050"), "drop_path": 0.1},
        "--drop-path 0.1",
        "timm:ghostnet_050 skip no blocks",
    ),
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
    ({"epochs": 0, "repeat": 2, "data": "/"}, "--repeat 2", "--epochs 0 trains none"),
    ({"repeat": 0}, "--repeat 0", "at least 1"),
    ({"transfer": True}, "--transfer", "--variants has one"),
    ({"screen": 0.0}, "--screen 0.0", "above 0 to 1"),
    ({"cascade": True, "epochs": 0, "data": "/"}, "--cascade", "--epochs 0 trains none"),
    ({"cascade": True, "train_res": (64,)}, "--cascade", "--train-res 64 has one"),
    ({"cascade": True, "train_res": "native"}, "--cascade", "--train-res native has one"),
    ({"cascade": True, "cascade_epochs": 0}, "--cascade-epochs 0", "at least 1"),
    ({"cascade_epochs": 3}, "--cascade-epochs 3", "give --cascade"),
    ({"cascade_samples": 1}, "--cascade-samples 1", "give --cascade"),
    ({"cascade": True, "cascade_samples": 9, "samples": 8}, "--cascade-samples 9", "--samples 8"),
    (
        {"cascade": True, "cascade_samples": 1, "survivors": 9, "samples": 3},
        "--cascade-samples 1",
        "--survivors 9 asks for the cells: give at least 3, or fewer",
    ),
    (
        {"cascade": True, "cascade_epochs": 1, "warmup_epochs": 2.0},
        "--warmup-epochs 2",
        "(1, --casc",
    ),
    ({"cascade": True, "epochs": 4, "warmup_epochs": 3.0}, "--warmup-epochs 3", "(2, half"),
    ({"screen": 0.5, "untouched": False}, "--screen 0.5", "--no-untouched has none"),
    ({"screen": 0.5, "weights": "none"}, "--screen 0.5", "--weights none has none"),
    ({"screen": 0.5, "epochs": 0, "data": "/"}, "--screen 0.5", "--epochs 0 trains none"),
    ({"batch_size": 1}, "--batch-size 1", "at least 2"),
    ({"grace_epochs": 0}, "--grace-epochs 0", "at least 1"),
    ({"reduction": 1}, "--reduction 1", "at least 2"),
    ({"survivors": 0}, "--survivors 0", "at least 1"),
    ({"head_batch_size": 0}, "--head-batch-size 0", "at least 1"),
    ({"head_epochs": 0}, "--head-epochs 0", "at least 1"),
    ({"head_patience": 0}, "--head-patience 0", "at least 1"),
    ({"head_optimizer": ()}, "--head-optimizer", "is empty"),
    ({"head_class_weights": ()}, "--head-class-weights", "is empty"),
    (
        {"sampling": "balanced", "class_weights": "sqrt"},
        "--sampling balanced and --class-weights sqrt",
        "count rare classes twice: give one",
    ),
    (
        {"sampling": "balanced", "epochs": 0, "data": "/"},
        "--sampling balanced",
        "by --head-class-weights balanced",
    ),
    ({"freeze_batch_norm": True, "weights": "none"}, "--freeze-batch-norm", "has none"),
    ({"start": "probe", "weights": "none"}, "--start probe", "has none"),
    ({"start": "probe", "epochs": 0}, "--start probe", "trains nothing"),
    ({"head_only_epochs": 1, "epochs": 0, "data": "/"}, "--head-only-epochs 1", "trains none"),
    ({"mixup": 0.2, "epochs": 0, "data": "/"}, "--mixup 0.2 is", "--epochs 0 trains none"),
    ({"auto_augment": "rand", "epochs": 0, "data": "/"}, "--auto-augment rand is", "trains none"),
    ({"freeze_batch_norm": True, "epochs": 0, "data": "/"}, "--freeze-batch-norm is", "trains"),
    ({"layer_decay": 0.75, "epochs": 0, "data": "/"}, "--layer-decay 0.75 is", "trains none"),
    ({"head_only_epochs": -1}, "--head-only-epochs -1", "at least 0"),
    ({"head_only_epochs": 4, "epochs": 4}, "--head-only-epochs 4", "none of --epochs 4"),
    ({"mixup": -0.1}, "--mixup -0.1", "at least 0"),
    ({"random_erasing": 1.5}, "--random-erasing 1.5", "from 0 to 1"),
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
    ({"test_crop_pct": ()}, "--test-crop-pct", "at least one"),
    ({"test_crop_pct": ("weights", 1.0, 1.0)}, "--test-crop-pct weights 1.0 1.0", "once"),
    ({"test_crop_pct": (1.0, 1.5)}, "--test-crop-pct 1.5", "above 0 to 1"),
    ({"arms": ("crop1", "fix")}, "--arms crop1", "none with --test-crop-pct 1.0"),
    ({"test_crop_pct": (0.0,)}, "--test-crop-pct 0.0", "above 0 to 1"),
    ({"also_test": ("v2",)}, "--also-test v2", "is not NAME=DIR"),
    ({"class_order": "/no/such"}, "--class-order /no/such", "give natural, string, or a file"),
    ({"class_order": " "}, "--class-order", "is empty"),
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
    ({"cluster_gpus": 0}, "--cluster-gpus 0", "at least 1"),
    ({"cluster_gpus": 16}, "--cluster-gpus 16", "--workers-per-trial auto"),
    ({"cluster_gpus": 16, "workers_per_trial": 2}, "--cluster-gpus 16", "--workers-per-trial auto"),
    ({"workers_per_trial": 3, "batch_size": 5}, "--batch-size of 5", "two images for each"),
    ({"price_per_hour": ("-0.5",)}, "--price-per-hour -0.5", "at least 0"),
    ({"price_per_hour": ("T4=nan",)}, "--price-per-hour T4=nan", "at least 0"),
    ({"price_per_hour": ("=1",)}, "--price-per-hour =1", "NAME=AMOUNT"),
    ({"price_per_hour": ("T4=1", "T4=2")}, "T4 has a price already", "give one"),
    ({"budget_hours": 0.0}, "--budget-hours 0.0", "more than 0"),
    ({"budget_gpu_hours": -1.0}, "--budget-gpu-hours -1.0", "more than 0"),
    ({"budget_cost": 3.0}, "--budget-cost 3 has no price", "--price-per-hour"),
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
    ({"data": "s3://b/what?a"}, "s3://b/what?a", "as %3F"),
    ({"data": os.fsdecode(b"/x/caf\xe9")}, r"--data /x/caf\xe9", "is not UTF-8"),
    ({"out": Path(os.fsdecode(b"caf\xe9"))}, r"--out caf\xe9", "is not UTF-8"),
    ({"also_test": (os.fsdecode(b"a=caf\xe9"),)}, r"--also-test a=caf\xe9", "is not UTF-8"),
    ({"data": "s3://key:secret@bucket/x"}, "s3://***@bucket/x", "holds credentials"),
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


def test_resolutions_may_be_words() -> None:
    check_spec(spec_with(train_res="native", test_res="auto"))
    check_spec(spec_with(test_res="published"))


def test_limits_are_checked_on_their_own_too() -> None:
    check_serving(ServingOptions())
    check_serving(ServingOptions(max_gmacs=1.0, min_top1=1.0))
    with pytest.raises(UserError, match=r"^--max-gmacs -1.0 is out of bounds: give more than 0.$"):
        check_serving(ServingOptions(max_gmacs=-1.0))


@pytest.mark.parametrize("out", ["s3://my-bucket/first", "gs://b/x", "file:///tmp/x", "http://h/x"])
def test_folders_of_this_machine_are_no_uris(out: str) -> None:
    with pytest.raises(UserError, match=r"--out \w+:/.* is a folder of this machine.*--storage"):
        check_spec(spec_with(out=Path(out)))
    with pytest.raises(UserError, match=r"--cache-dir \w+:/.* is a folder of each node"):
        check_spec(spec_with(cache_dir=Path(out)))


def test_folders_whose_names_have_colons_are_taken(tmp_path: Path) -> None:
    check_spec(spec_with(out=tmp_path / "12:30" / "x"))
    check_spec(spec_with(out=Path("run-12:30/x")))


@pytest.mark.parametrize("name", ["out", "cache_dir"])
@pytest.mark.parametrize("inside", [".", "result", "a/b"])
@pytest.mark.parametrize("source", ["--data", "--also-test other"])
def test_what_is_written_must_not_lie_among_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, inside: str, source: str
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    monkeypatch.chdir(images)
    given: dict[str, Any] = {"data": "."}
    if source != "--data":
        given = {"data": str(tmp_path.parent / "elsewhere"), "also_test": (f"other={images}",)}
        (tmp_path.parent / "elsewhere").mkdir(exist_ok=True)
    option = f"--{name.replace('_', '-')}"
    for folder in (Path(inside), images / inside):
        with pytest.raises(UserError, match=f"^{option} .* lies in {source} .* elsewhere"):
            check_spec(spec_with(**{**given, "out": tmp_path, "cache_dir": tmp_path, name: folder}))
    check_spec(spec_with(**{**given, "out": tmp_path / "images-out", "cache_dir": tmp_path}))
