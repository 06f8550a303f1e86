"""A cell tells what it is made of."""

from __future__ import annotations

from tests.factories import HYPER, plan_of, spec_with


def test_a_cell_has_its_trunks_variant_and_its_specs_resolution_and_key() -> None:
    plan = plan_of(spec_with(variants=("b1",), train_res=(64,), test_res=(96,)))
    trunk = plan.trunk(plan.points[0], HYPER)
    cell = plan.cell(trunk, 3, 96)
    assert (cell.variant, cell.test_res, cell.trunk_epochs) == ("b1", 96, 3)
    assert cell.key == cell.spec.key and cell.spec.trunk == trunk.key
