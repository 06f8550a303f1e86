"""Ready-made specs."""

from __future__ import annotations

from sweeps.spec import FixOptions, GridOptions, HalvingOptions, SweepSpec, TrunkOptions


def builtin_digits() -> SweepSpec:
    """The main job on the built-in digits: minutes on two CPU cores, no network.

    Digits are not to be mirrored, and a crop of a quarter would miss them: they are small.
    """
    return SweepSpec(
        grid=GridOptions(variants=("lite0",), train_res=(48, 64, 96), test_res=(48, 64, 96, 128)),
        trunks=TrunkOptions(
            epochs=6, samples=2, lr=(1e-3, 4e-3), hflip=0.0, crop_scale=(0.35, 1.0)
        ),
        halving=HalvingOptions(grace_epochs=2, reduction=3),
        fix=FixOptions(),
    )
