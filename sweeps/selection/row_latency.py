"""Give every row its net's latency: measured here on one device, or as measured on another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sweeps.planning.options.latency_options import LatencyOptions
from sweeps.selection.leaderboard import Row
from trainables.errors import UserError
from trainables.fixres.arms import ARMS
from trainables.profiling.latency import Conditions, Latency, Runtime, Setting
from trainables.profiling.latency_file import read_latency_file
from trainables.profiling.net_latency import conditions, measure, setting_of
from trainables.profiling.torch_latency import NetAtRes
from trainables.storage.artifact_store import Store
from trainables.storage.damage import unless_damaged
from trainables.storage.files import Place, read_record, write_json
from trainables.storage.hashing import content_hash
from trainables.storage.typed import checked

Progress = Callable[[int, int], None]
NAMED_NETS = 4  # in an error, at most


def setting_from(options: LatencyOptions, runtime: Runtime | None = None) -> Setting:
    """Turn the options into how latency is measured on this machine.

    Args:
        runtime: in place of that of the options.
    """
    return setting_of(
        runtime or options.latency_runtime,
        options.latency_threads,
        options.latency_batch,
        options.throughput_batch,
    )


def nets_of(rows: Sequence[Row]) -> list[NetAtRes]:
    """List the nets of the rows: each variant at each of its test resolutions, once."""
    return sorted({(r.variant, r.test_res) for r in rows})


def with_latencies(
    rows: Sequence[Row],
    classes: int,
    store: Store,
    setting: Setting,
    progress: Progress = lambda done, total: None,
) -> tuple[list[Row], Conditions]:
    """Return the rows with latency and throughput on this machine, and what they are measured with.

    Arms change weights, not work, but for those that pass an image twice: each variant is measured
    once at each test resolution. A measurement under the same conditions that the store holds is
    not repeated.

    Args:
        progress: called with the nets measured, and all that are to be.

    Raises:
        UserError: the runtime cannot run here.
    """
    measured_with = conditions(setting)
    paths = {
        net: store.latency(content_hash("latency 3", measured_with, *net, classes))
        for net in nets_of(rows)
    }
    kept = {net: _kept(path) for net, path in paths.items()}
    latencies = {net: latency for net, latency in kept.items() if latency is not None}
    missing = [net for net in paths if net not in latencies]
    for net, latency in measure(missing, classes, setting, progress).items():
        write_json(paths[net], latency)
        latencies[net] = latency
    return _with(rows, latencies), measured_with


def _kept(path: Place) -> Latency | None:
    """Return the measurement at ``path``; None: there is none, or it is damaged."""
    return unless_damaged(lambda: read_record(path, lambda v: checked(Latency(**v))))


def with_latencies_of_file(
    rows: Sequence[Row], classes: int, path: Path
) -> tuple[list[Row], Conditions]:
    """Return the rows with the latencies of a file of fixres-latency, and how it measured them.

    Raises:
        UserError: it is no such file, or lacks a net of the rows.
    """
    content = read_latency_file(path)
    # A net that takes mirror images too is no candidate: of rows such passes are counted here.
    found = {(net.variant, net.test_res): net for net in content.nets if not net.mirrors}
    missing = [
        f"{variant} at {res} px with {classes} classes"
        for variant, res in nets_of(rows)
        if (net := found.get((variant, res))) is None or net.classes != classes
    ]
    if missing:
        more = len(missing) - NAMED_NETS
        named = ", ".join(missing[:NAMED_NETS]) + (f" and {more} more" if more > 0 else "")
        raise UserError(
            f"--latency {path} lacks nets of this sweep ({named}): write them with "
            "--export-candidates, and measure those."
        )
    latencies = {name: net.latency for name, net in found.items()}
    return _with(rows, latencies), content.conditions


def _with(rows: Sequence[Row], latencies: Mapping[NetAtRes, Latency]) -> list[Row]:
    # Two passes in one batch take no longer than two after each other; the file is measured itself.
    return [
        replace(
            r,
            latency_ms=latencies[r.variant, r.test_res].latency_ms * ARMS[r.arm].passes,
            images_s=latencies[r.variant, r.test_res].images_s / ARMS[r.arm].passes,
        )
        for r in rows
    ]
