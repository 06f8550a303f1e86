"""Each net is timed once under the same conditions, whatever its arms; or elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeps.planning.options.groups import ServingOptions
from sweeps.planning.options.latency_options import LatencyOptions
from sweeps.selection import leaderboard, row_latency
from sweeps.selection.choice import choose
from sweeps.selection.leaderboard import Row
from sweeps.selection.row_latency import setting_from, with_latencies, with_latencies_of_file
from tests.factories import a_row
from trainables.errors import UserError
from trainables.machine import cpu_name
from trainables.profiling.latency import Conditions, Latency, Setting
from trainables.profiling.latency_file import (
    LatencyFile,
    NetLatency,
    read_latency_file,
    write_latency_file,
)
from trainables.profiling.net_latency import conditions
from trainables.storage.artifact_store import Store

SETTING = Setting(runtime="onnx", threads=2, batch=1, throughput_batch=32)
ELSEWHERE = Conditions(
    runtime="onnx", version="1.2.3", device="A small CPU", precision="float32", threads=4, batch=1,
    throughput_batch=32,
)  # fmt: skip
ROWS = [
    a_row(arm=arm, variant=variant, train_res=train, test_res=test)
    for variant in ("b0", "b1")
    for train in (64, 96)
    for test in (96, 128)
    for arm in ("none", "fix")
]
NETS = [(v, r) for v in ("b0", "b1") for r in (96, 128)]


def taking(ms: float) -> Latency:
    return Latency(latency_ms=ms, low_ms=ms - 0.5, high_ms=ms + 1, runs=5, images_s=1e3 / ms)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int, Setting]]:
    """What was measured, by a stand-in: each takes a time of its own."""
    asked: list[tuple[str, int, int, Setting]] = []

    def measuring(nets: list[tuple[str, int]], classes: int, setting: Setting, _: object) -> Any:
        asked.extend((*net, classes, setting) for net in nets)
        return {net: taking(10.0 * i + len(asked)) for i, net in enumerate(nets, start=1)}

    monkeypatch.setattr(row_latency, "measure", measuring)
    return asked


def test_rows_of_one_net_share_a_measurement_that_is_kept(
    tmp_path: Path, measured: list[tuple[str, int, int, Setting]]
) -> None:
    timed, found = with_latencies(ROWS, 10, Store(tmp_path), SETTING)
    assert measured == [(*net, 10, SETTING) for net in NETS]
    by_net = {(r.variant, r.test_res): r.latency_ms for r in timed}
    assert all(r.latency_ms == by_net[r.variant, r.test_res] for r in timed)
    assert len(set(by_net.values())) == 4 and len({r.images_s for r in timed}) == 4
    assert (found.runtime, found.threads, found.device) == ("onnx", 2, cpu_name())
    assert with_latencies(ROWS, 10, Store(tmp_path), SETTING) == (timed, found)
    assert len(measured) == 4
    more = [*ROWS, a_row(variant="b2")]
    assert with_latencies(more, 10, Store(tmp_path), SETTING)[0][:-1] == timed
    assert measured[4:] == [("b2", 96, 10, SETTING)]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_row_of_two_passes_takes_twice_as_long_and_is_not_measured_again(
    tmp_path: Path, measured: list[tuple[str, int, int, Setting]], elsewhere: bool
) -> None:
    rows = [a_row(arm="none"), a_row(arm="none_flip"), a_row(arm="fix"), a_row(arm="fix_flip")]
    if elsewhere:
        timed, _ = with_latencies_of_file(rows, 10, a_file(tmp_path / "latency", [("b0", 96)]))
    else:
        timed, _ = with_latencies(rows, 10, Store(tmp_path), SETTING)
        assert len(measured) == 1
    none, none_flip, fix, fix_flip = timed
    assert none.latency_ms and none.images_s
    assert (none.latency_ms, none.images_s) == (fix.latency_ms, fix.images_s)
    for row in (none_flip, fix_flip):
        assert (row.latency_ms, row.images_s) == (2 * none.latency_ms, none.images_s / 2)


def test_two_passes_are_chosen_where_they_are_better_and_within_the_limit() -> None:
    hits = {"none": 30, "none_flip": 45}
    rows = [
        a_row(hits["none"], arm="none", latency_ms=4.0),
        a_row(hits["none_flip"], arm="none_flip", latency_ms=8.0, gmacs=1.0),
    ]

    def right(row: Row) -> np.ndarray:
        return np.arange(row.n) < row.hits1

    for limit, wanted in ((8.0, "none_flip"), (7.0, "none")):
        assert choose(rows, ServingOptions(max_latency_ms=limit), right).row.arm == wanted


@pytest.mark.parametrize(
    "other",
    [{"runtime": "torch"}, {"runtime": "torch-compile"}, {"threads": 1}, {"batch": 2}],
)
def test_what_the_store_holds_is_of_its_own_conditions(
    tmp_path: Path, measured: list[tuple[str, int, int, Setting]], other: dict[str, Any]
) -> None:
    with_latencies(ROWS, 10, Store(tmp_path), SETTING)
    with_latencies(ROWS, 10, Store(tmp_path), replace(SETTING, **other))
    with_latencies(ROWS, 11, Store(tmp_path), SETTING)
    assert len(measured) == 12
    assert len(list((tmp_path / "latency").iterdir())) == 12


@pytest.mark.parametrize("change", [{"device": "another"}, {"version": "9.9"}])
def test_another_machine_or_version_is_measured_anew(
    tmp_path: Path,
    measured: list[tuple[str, int, int, Setting]],
    change: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_latencies(ROWS, 10, Store(tmp_path), SETTING)
    changed = replace(conditions(SETTING), **change)
    monkeypatch.setattr(row_latency, "conditions", lambda _: changed)
    with_latencies(ROWS, 10, Store(tmp_path), SETTING)
    assert len(measured) == 8


def test_options_are_the_setting() -> None:
    options = LatencyOptions(
        latency_runtime="torch", latency_threads=3, latency_batch=4, throughput_batch=8
    )
    assert setting_from(options) == Setting(runtime="torch", threads=3, batch=4, throughput_batch=8)


def a_file(path: Path, nets: list[tuple[str, int]], classes: int = 10) -> Path:
    content = LatencyFile(
        conditions=ELSEWHERE,
        measured="2026-01-01T00:00:00Z",
        nets=tuple(
            NetLatency(variant=v, test_res=r, classes=classes, latency=taking(r / 10))
            for v, r in nets
        ),
    )
    write_latency_file(path, content)
    return path


def test_a_finished_net_that_takes_mirror_images_too_is_no_candidate_of_a_file(
    tmp_path: Path,
) -> None:
    path = a_file(tmp_path / "latency.json", [("b0", 96)])
    content = read_latency_file(path)
    write_latency_file(path, replace(content, nets=(replace(content.nets[0], mirrors=True),)))
    with pytest.raises(UserError, match=r"\(b0 at 96 px with 10 classes\)"):
        with_latencies_of_file([a_row(arm="none_flip")], 10, path)


def test_latencies_of_another_machine_come_from_its_file(tmp_path: Path) -> None:
    path = a_file(tmp_path / "latency.json", [*NETS, ("b7", 600)])
    timed, found = with_latencies_of_file(ROWS, 10, path)
    assert found == ELSEWHERE
    assert all(r.latency_ms == pytest.approx(r.test_res / 10) for r in timed)


@pytest.mark.parametrize(
    ("nets", "classes", "lacking"),
    [
        (NETS[1:], 10, r"\(b0 at 96 px with 10 classes\)"),
        (NETS, 1000, r"\(b0 at 96 px .*, b1 at 128 px with 10 classes\)"),
        ([], 10, r"b1 at 128 px with 10 classes\): write them with --export-candidates"),
    ],
)
def test_a_file_that_lacks_a_net_is_refused(
    tmp_path: Path, nets: list[tuple[str, int]], classes: int, lacking: str
) -> None:
    path = a_file(tmp_path / "latency.json", nets, classes)
    with pytest.raises(UserError, match=lacking):
        with_latencies_of_file(ROWS, 10, path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"nets": [], "conditions": {}}', "\0"])
def test_a_file_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "latency.json"
    with pytest.raises(UserError, match=r"latency\.json does not exist"):
        with_latencies_of_file(ROWS, 10, path)
    path.write_text(content)
    with pytest.raises(UserError, match=r"latency\.json is no file of fixres-latency"):
        with_latencies_of_file(ROWS, 10, path)
    written = json.loads(a_file(path, NETS).read_text())
    written["nets"][0]["latency"]["latency_ms"] = "fast"
    path.write_text(json.dumps(written))
    with pytest.raises(UserError, match=r"latency_ms is str"):
        with_latencies_of_file(ROWS, 10, path)


def test_the_same_limit_chooses_otherwise_in_another_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As measured: uncompiled PyTorch takes its time to dispatch, whatever the resolution."""
    of_runtime = {"torch": {48: 12.0, 96: 14.1, 128: 17.0}, "onnx": {48: 0.8, 96: 2.2, 128: 3.6}}

    def measuring(nets: list[tuple[str, int]], _: int, setting: Setting, __: object) -> Any:
        return {net: taking(of_runtime[setting.runtime][net[1]]) for net in nets}

    monkeypatch.setattr(row_latency, "measure", measuring)
    rows = [
        a_row(hits, 100, variant="lite0", test_res=res, gmacs=res**2 / 1e5)
        for res, hits in ((48, 60), (96, 80), (128, 90))
    ]
    limits = ServingOptions(max_latency_ms=13.0)

    def chosen(setting: Setting) -> tuple[Row, str]:
        timed, found = with_latencies(rows, 10, Store(tmp_path), setting)
        choice = choose(timed, limits, lambda r: np.arange(100) < r.hits1, latency=found)
        return choice.row, choice.reason

    onnx, why_onnx = chosen(SETTING)
    torch, why_torch = chosen(replace(SETTING, runtime="torch"))
    assert (onnx.test_res, torch.test_res) == (128, 48)
    assert "of 3 rows within 13 ms (ONNX Runtime" in why_onnx and cpu_name() in why_onnx
    assert "of 1 rows within 13 ms (PyTorch" in why_torch
    timed, found = with_latencies(rows, 10, Store(tmp_path), replace(SETTING, runtime="torch"))
    with pytest.raises(UserError, match=r"within 1 ms \(PyTorch .*2 threads"):
        choose(timed, ServingOptions(max_latency_ms=1.0), lambda r: np.zeros(100), latency=found)


def test_the_leaderboard_says_what_its_latencies_were_measured_with(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.parquet"
    leaderboard.write(path, ROWS)
    assert leaderboard.read_latency_conditions(path) is None
    leaderboard.write(path, ROWS, ELSEWHERE)
    assert leaderboard.read_latency_conditions(path) == ELSEWHERE
    assert leaderboard.read(path) == ROWS
