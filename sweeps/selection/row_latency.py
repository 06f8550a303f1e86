"""Measure the latency of every net on the leaderboard, on one device so that they compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sweeps.selection.leaderboard import Row
from trainables.profiling.latency import Latency, device_name, measure
from trainables.storage.artifact_store import Store
from trainables.storage.damage import unless_damaged
from trainables.storage.files import read_record, write_json
from trainables.storage.hashing import content_hash
from trainables.storage.typed import checked


def with_latencies(rows: Sequence[Row], classes: int, store: Store) -> list[Row]:
    """Return the rows with latency and throughput on this device.

    Arms change weights, not work: each variant is measured once at each test resolution. A
    measurement on the same device that the store holds is not repeated.
    """
    nets = sorted({(r.variant, r.test_res) for r in rows})
    latencies = {net: _latency(*net, classes, store) for net in nets}
    return [
        replace(
            r,
            latency_ms=latencies[r.variant, r.test_res].latency_ms,
            images_s=latencies[r.variant, r.test_res].images_s,
        )
        for r in rows
    ]


def _latency(variant: str, res: int, classes: int, store: Store) -> Latency:
    path = store.latency(content_hash("latency 1", device_name(), variant, res, classes))
    kept = unless_damaged(lambda: read_record(path, lambda value: checked(Latency(**value))))
    if kept is not None:
        return kept
    latency = measure(variant, res, classes)
    write_json(path, latency)
    return latency
