"""The record of a sweep in spec.json, of this version and of earlier ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.output.sweep_record import SweepRecord, read_sweep_record
from tests.factories import a_record

OPTIONS = {"variants": ("b0", "b1"), "lr": (1e-3, 1e-2), "seed": 7, "keep": "front"}


@pytest.fixture
def record() -> SweepRecord:
    return a_record("s3://bucket/sweep", **OPTIONS)


def test_a_record_is_read_as_it_was_written(record: SweepRecord, tmp_path: Path) -> None:
    assert read_sweep_record(tmp_path) is None
    record.write(tmp_path)
    assert read_sweep_record(tmp_path) == record
    finished = replace(record, ui="mlflow ui")
    finished.write(tmp_path)
    assert read_sweep_record(tmp_path) == finished


def test_every_sweep_has_an_id_of_its_own() -> None:
    assert a_record().sweep != a_record().sweep


def test_a_record_of_the_first_release_is_read(record: SweepRecord, tmp_path: Path) -> None:
    """It had one group of options for running, where there are several now."""
    record.write(tmp_path)
    written = json.loads((tmp_path / "spec.json").read_text())
    for group in ("output", "resources", "tracking", "evaluation"):
        written["spec"]["run"] |= written["spec"].pop(group)
    (tmp_path / "spec.json").write_text(json.dumps(written))
    assert read_sweep_record(tmp_path) == record
