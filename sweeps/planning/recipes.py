"""Ready-made specs: each gives the defaults of the options that are left out."""

from __future__ import annotations

from dataclasses import replace

from sweeps.planning.options.groups import (
    DataOptions,
    FixOptions,
    GridOptions,
    HalvingOptions,
    TrunkOptions,
)
from sweeps.planning.options.search_options import SearchOptions
from sweeps.planning.published import PUBLISHED
from sweeps.planning.spec import SweepSpec


def builtin_digits() -> SweepSpec:
    """Make the spec for the built-in digits: two minutes on two CPU cores, no network.

    There are no flips, as a mirrored digit is none, and crops keep at least 35 % of the area: the
    digits are small, and a crop of a quarter would miss them. Such crops show objects 1.26 times as
    large as the whole image does, on average, which is as large as 1.26 times the train resolution
    shows them in testing: the test resolutions are around that.
    """
    return SweepSpec(
        grid=GridOptions(variants=("lite0",), train_res=(48, 64), test_res=(64, 80, 96)),
        trunks=TrunkOptions(epochs=8, hflip=0.0, crop_scale=(0.35, 1.0)),
        search=SearchOptions(samples=2),
        halving=HalvingOptions(grace_epochs=2, reduction=3),
    )


def fixefficientnet() -> SweepSpec:
    """Make the spec of FixEfficientNet (arXiv:2003.08237) on ImageNet, as its figures were made.

    It takes the pretrained nets as they are, the published test resolution of each, crop ratio 1.0,
    bicubic, and the normalisation of each one's weights. Classifiers are fitted by SGD with
    momentum 0.9, weight decay 1e-4, batches of 512 and learning rates of 8e-4 and 8e-3 (the
    released code multiplies the 1e-4 and 1e-3 of its README by 8 at that batch size), for 11 epochs
    at most.

    What picks never judges: ImageNet's val is test, and 2 % of train (25,600 images, as many as the
    EfficientNets themselves were picked by: arXiv:1905.11946, section 5.2) are held out as val.
    """
    return SweepSpec(
        images=DataOptions(pick_share=0.02),
        grid=GridOptions(
            recipe="fixefficientnet",
            variants=tuple(PUBLISHED),
            train_res="native",
            test_res="published",
            untouched=False,
        ),
        trunks=TrunkOptions(epochs=0),
        search=SearchOptions(samples=1),
        fix=FixOptions(
            arms=("none", "bn", "fix", "fix_aug"),
            test_crop_pct=(1.0,),
            interpolation="bicubic",
            head_lr=(8e-4, 8e-3),
            head_smoothing=(0.0, 0.1),
            head_epochs=11,
            head_patience=11,
            head_batch_size=512,
        ),
    )


def fixres() -> SweepSpec:
    """Make the spec of :func:`fixefficientnet` with FixRes' own test transform.

    Images are resized to 256/224 of the crop, bilinear (arXiv:1906.06423, and the released
    fine-tuning code).
    """
    spec = fixefficientnet()
    return replace(
        spec,
        grid=replace(spec.grid, recipe="fixres"),
        fix=replace(spec.fix, test_crop_pct=(224 / 256,), interpolation="bilinear"),
    )


RECIPES = {"fixefficientnet": fixefficientnet, "fixres": fixres}
