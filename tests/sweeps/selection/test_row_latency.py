"""Each net is timed once on a device, whatever its arms."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.selection import row_latency
from sweeps.selection.row_latency import with_latencies
from tests.factories import a_row
from trainables.profiling.latency import Latency
from trainables.storage.artifact_store import Store


def test_rows_of_one_net_share_a_measurement_that_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[str, int, int]] = []

    def measuring(variant: str, res: int, classes: int) -> Latency:
        measured.append((variant, res, classes))
        return Latency(
            latency_ms=float(res + len(measured)), low_ms=1.0, high_ms=9.0, runs=5, images_s=50.0
        )

    monkeypatch.setattr(row_latency, "measure", measuring)
    rows = [
        a_row(arm=arm, variant=variant, train_res=train, test_res=test)
        for variant in ("b0", "b1")
        for train in (64, 96)
        for test in (96, 128)
        for arm in ("none", "fix")
    ]
    timed = with_latencies(rows, 10, Store(tmp_path))
    assert sorted(measured) == [(v, r, 10) for v in ("b0", "b1") for r in (96, 128)]
    by_net = {(r.variant, r.test_res): r.latency_ms for r in timed}
    assert all(r.latency_ms == by_net[r.variant, r.test_res] for r in timed)
    assert len(set(by_net.values())) == 4 and {r.images_s for r in timed} == {50.0}
    assert with_latencies(rows, 10, Store(tmp_path)) == timed and len(measured) == 4
    monkeypatch.setattr(row_latency, "device_name", lambda: "another")
    with_latencies(rows, 10, Store(tmp_path))
    assert len(measured) == 8
