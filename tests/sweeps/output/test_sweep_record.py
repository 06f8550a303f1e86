"""The record of a sweep in spec.json, of this version and of earlier ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweeps.output.sweep_record import SweepRecord, extended_record, read_sweep_record
from sweeps.planning.spec import identity
from tests.factories import a_record, spec_with
from trainables.storage.damage import DamagedFileError, unless_damaged

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


def test_a_record_keeps_its_first_command_and_those_that_changed_what_it_is_over(
    record: SweepRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert record.last_command == record.command
    for samples in (9, 9, 2):
        spec = spec_with(record.spec, samples=samples, concurrency=samples)
        monkeypatch.setattr("sys.argv", ["fixres_grid.py", "--samples", str(samples)])
        record = extended_record(record, spec, identity(spec, "d1"))
        record.write(tmp_path)
        assert read_sweep_record(tmp_path) == record
    assert record.sweep and "--samples" not in record.command
    assert [extension.changed for extension in record.extensions] == [
        ("--samples was 4, now 9",),
        ("--samples was 9, now 2",),
    ]
    assert record.last_command[-2:] == ("--samples", "2")
    assert record.spec.search.samples == record.identity["samples"] == 2
    assert record.spec.resources.concurrency == 2


def test_a_record_that_was_not_extended_is_written_as_before_there_were_extensions(
    record: SweepRecord, tmp_path: Path
) -> None:
    record.write(tmp_path)
    assert "extensions" not in json.loads((tmp_path / "spec.json").read_text())


def test_every_sweep_has_an_id_of_its_own() -> None:
    assert a_record().sweep != a_record().sweep


NOISE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@quick
@given(value=NOISE, data=st.data())
def test_a_value_of_another_type_anywhere_is_damage_and_nothing_else(
    record: SweepRecord, tmp_path: Path, value: Any, data: st.DataObject
) -> None:
    record.write(tmp_path)
    written = json.loads((tmp_path / "spec.json").read_text())
    place, path = written, data.draw(st.sampled_from(PLACES))
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (tmp_path / "spec.json").write_text(json.dumps(written))
    found = unless_damaged(lambda: read_sweep_record(tmp_path))  # raises anything else
    assert found is None or isinstance(found, SweepRecord)


PLACES = (
    *(("sweep",), ("command",), ("identity",), ("storage",), ("spec",), ("classes",), ("began",)),
    *(("versions",), ("ui",), ("spec", "trunks"), ("spec", "trunks", "lr"), ("spec", "new")),
    *(("spec", "grid", "train_res"), ("spec", "output", "out"), ("spec", "trunks", "epochs")),
)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b"{}", b"\xff", b'{"spec": {"trunks": 1}}']
)
def test_a_file_that_is_no_record_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "spec.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"spec.json is damaged"):
        read_sweep_record(tmp_path)


def test_a_record_of_the_first_release_is_read(record: SweepRecord, tmp_path: Path) -> None:
    """It had one group of options for running, where there are several now."""
    record.write(tmp_path)
    written = json.loads((tmp_path / "spec.json").read_text())
    for group in ("output", "resources", "tracking", "evaluation"):
        written["spec"]["run"] |= written["spec"].pop(group)
    (tmp_path / "spec.json").write_text(json.dumps(written))
    assert read_sweep_record(tmp_path) == record


def test_no_secret_of_the_command_line_is_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    uri = "https://someone:hunter2secret@host/mlflow"
    monkeypatch.setattr("sys.argv", ["fixres_grid.py", "--tracking-uri", uri])
    record = a_record(tracking_uri=uri)
    assert "hunter2secret" not in str(record)
    record.write(tmp_path)
    assert "hunter2secret" not in (tmp_path / "spec.json").read_text()
    assert record.spec.tracking.tracking_uri == "https://***@host/mlflow"


def test_a_secret_that_an_earlier_release_recorded_is_not_written_again(tmp_path: Path) -> None:
    a_record().write(tmp_path)
    file = tmp_path / "spec.json"
    written = json.loads(file.read_text())
    written["command"] += ["--tracking-uri", "https://someone:hunter2secret@host"]
    file.write_text(json.dumps(written))
    record = read_sweep_record(tmp_path)
    assert record is not None
    record.write(tmp_path)
    assert "hunter2secret" not in file.read_text()
