"""The table of the published figures."""

from __future__ import annotations

from typing import Any

import pytest

from sweeps.planning.published import PUBLISHED, published
from trainables.models.variants import VARIANTS

# Top-1 points from start to fixed net, rounded on their own: no figure here is read off the table.
GAINS = {
    **{f"b{i}": gain for i, gain in enumerate((1.5, 1.2, 1.2, 0.9, 0.7, 0.3, 0.2, 0.2))},
    **{f"b{i}_ap": gain for i, gain in enumerate((2.2, 2.0, 1.7, 1.2, 0.8, 0.4, 0.1, 0.2))},
    "l2": 0.25,
    "b8": 0.3,
}


def test_nine_nets_of_each_start() -> None:
    noisy = {f"b{i}" for i in range(8)} | {"l2"}
    advprop = {f"b{i}_ap" for i in range(8)} | {"b8"}
    assert set(PUBLISHED) == noisy | advprop
    assert all(name == row.variant for name, row in PUBLISHED.items())
    assert published("lite0") is None
    assert published("b0") is PUBLISHED["b0"]


@pytest.mark.parametrize("row", PUBLISHED.values(), ids=lambda row: row.variant)
def test_each_net_gains_at_a_larger_resolution(row: Any) -> None:
    assert 1.04 < row.test_res / row.train_res < 1.63
    assert row.fix_top1 - row.start_top1 == pytest.approx(GAINS[row.variant], abs=0.0501)
    assert row.start_top5 < row.fix_top5 < 100
    assert row.fix_top1 < row.fix_top5


@pytest.mark.parametrize("columns", ["start_top1", "start_top5", "fix_top1", "fix_top5"])
def test_larger_nets_are_better_and_noisy_student_is(columns: str) -> None:
    def column(names: str) -> list[float]:
        return [getattr(PUBLISHED[name], columns) for name in names.split()]

    noisy = column("b0 b1 b2 b3 b4 b5 b6 b7 l2")
    advprop = column("b0_ap b1_ap b2_ap b3_ap b4_ap b5_ap b6_ap b7_ap b8")
    assert noisy == sorted(set(noisy))
    assert advprop == sorted(advprop)
    assert all(n > a for n, a in zip(noisy, advprop, strict=True))


def test_cells_by_hand() -> None:
    def cells(variant: str) -> tuple[float, ...]:
        r = PUBLISHED[variant]
        return (r.train_res, r.test_res, r.start_top1, r.start_top5, r.fix_top1, r.fix_top5)

    assert cells("b0") == (224, 320, 78.68, 94.37, 80.2, 95.4)
    assert cells("b4") == (380, 472, 85.16, 97.48, 85.9, 97.7)
    assert cells("b4_ap") == (380, 512, 83.25, 96.39, 84.0, 97.0)
    assert cells("b8") == (672, 800, 85.36, 97.30, 85.7, 97.6)
    assert cells("l2") == (475, 600, 88.25, 98.55, 88.5, 98.7)


def test_starts_are_the_weights_of_the_sweeps_variants() -> None:
    known = [row for name, row in PUBLISHED.items() if name in VARIANTS]
    assert len(known) >= 10
    for row in known:
        variant = VARIANTS[row.variant]
        assert variant.native_res == row.train_res
        advprop = row.variant == "b8" or row.variant.endswith("_ap")
        assert variant.tag.startswith("ap_" if advprop else "ns_")
