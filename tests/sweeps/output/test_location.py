"""A sweep kept in an object store: who may be in it, what comes back from it, what is refused."""

from __future__ import annotations

import urllib.request
from datetime import timedelta
from pathlib import Path

import boto3
import pytest

from sweeps.output import lease, s3_bucket
from sweeps.output.location import check_same, location_of, recorded_store
from tests.factories import a_record
from tests.storing import BUCKET, S3Server
from trainables.errors import UserError
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_json, write_json
from trainables.storage.object_store import remote_path


def heard(_: str) -> None:
    """What is said plays no part."""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A finished sweep's results."""
    folder = tmp_path / "out"
    texts = {
        "spec.json": '{"sweep": "x"}',
        "choice.json": "{}",
        "leaderboard.parquet": "rows",
        "report.html": "<html>",
        "figures/heatmap.png": "picture",
        "model/README.md": "# Card\n",
        "model/model.safetensors": "weights",
        "store/journal.jsonl": "{}\n",
        ".lock": "",
        "mlflow.db": "runs",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_results_come_back_on_another_machine(s3: S3Server, out: Path, tmp_path: Path) -> None:
    uri = s3.uri(f"tests/{tmp_path.name}")
    location_of(out, uri).publish_results()
    other = tmp_path / "other"
    with location_of(other, uri).opened(heard):
        pass
    came = {p.relative_to(other).as_posix() for p in other.rglob("*") if p.is_file()}
    sent = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert came == sent - {".lock", "mlflow.db", "store/journal.jsonl"}
    for name in came - {"model/README.md"}:
        assert (other / name).read_bytes() == (out / name).read_bytes()


def test_the_card_in_the_store_has_links_that_open(s3: S3Server, out: Path, tmp_path: Path) -> None:
    uri = s3.uri(f"tests/{tmp_path.name}")
    location_of(out, uri).publish_results()
    card = (remote_path(uri) / "model" / "README.md").read_text()
    assert card.startswith("# Card\n\n## Download\n")
    (link,) = [line for line in card.splitlines() if line.startswith("* [model.safetensors]")]
    with urllib.request.urlopen(link.partition("(")[2].rstrip(")")) as answer:  # no credentials
        assert answer.read() == b"weights"
    assert "secret" not in card
    assert (out / "model" / "README.md").read_text() == "# Card\n"  # the same bytes as ever


def test_results_that_are_there_are_not_brought(s3: S3Server, out: Path, tmp_path: Path) -> None:
    uri = s3.uri(f"tests/{tmp_path.name}")
    location_of(out, uri).publish_results()
    (out / "report.html").write_text("mine")
    with location_of(out, uri).opened(heard):
        assert (out / "report.html").read_text() == "mine"


def test_a_folder_needs_no_store(out: Path) -> None:
    storage = location_of(out, None)
    with storage.opened(heard):
        storage.publish("spec.json")
        storage.publish_results()
    assert storage.store == Store(out / "store") and storage.boards == (
        out / "leaderboard.parquet",
    )


def test_a_sweep_stays_with_its_storage(out: Path, tmp_path: Path, s3: S3Server) -> None:
    here, there = location_of(out, None), location_of(out, s3.uri("x"))
    check_same(a_record(), here)
    check_same(a_record(s3.uri("x")), there)
    with pytest.raises(UserError, match="begun with no --storage"):
        check_same(a_record(), there)
    with pytest.raises(UserError, match="begun with --storage s3://sweeps/x"):
        check_same(a_record(s3.uri("x")), here)
    assert recorded_store(out, a_record(s3.uri("x"))) == Store(out / "store")
    moved = recorded_store(tmp_path / "nothing", a_record(s3.uri("x")))
    assert moved == Store(remote_path(s3.uri("x/store")))


def test_wrong_credentials_are_said_at_once(
    s3: S3Server, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with (
        pytest.raises(UserError, match="these credentials may not use the bucket"),
        location_of(out, s3.uri("x")).opened(heard),
    ):
        pass


def test_no_credentials_are_said_at_once(
    s3: S3Server, out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with (
        pytest.raises(UserError, match="no credentials for S3 were found"),
        location_of(out, s3.uri("x")).opened(heard),
    ):
        pass


def test_nobody_there_is_said_at_once(
    s3: S3Server, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with (
        pytest.raises(UserError, match="cannot be reached"),
        location_of(out, s3.uri("x")).opened(heard),
    ):
        pass


def test_old_unfinished_uploads_are_given_up(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    client = boto3.client("s3")
    path = remote_path(s3.uri("tests/uploads"))
    keys = ("tests/uploads/store/a", "tests/uploads-of-others/b")
    for key in keys:
        upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
        client.upload_part(
            Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * 5_300_000
        )

    def open_uploads() -> set[str]:
        listed = client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ())
        return {upload["Key"] for upload in listed} & set(keys)

    assert s3_bucket.abort_stale_uploads(path) == 0  # it may still be going on
    assert open_uploads() == set(keys)
    monkeypatch.setattr(s3_bucket, "STALE_UPLOAD_AGE", timedelta(days=-1))
    assert s3_bucket.abort_stale_uploads(path) == 1
    assert open_uploads() == {keys[1]}


def test_a_second_driver_is_refused_while_the_first_lives(s3: S3Server, tmp_path: Path) -> None:
    path = remote_path(s3.uri(f"tests/{tmp_path.name}/driver.json"))
    with (
        lease.held(path, heard, beat_s=0.1, dead_s=2),
        pytest.raises(UserError, match="in use by another running sweep"),
        lease.held(path, heard, beat_s=0.1, dead_s=2),
    ):
        pass
    assert not path.exists()
    with lease.held(path, heard, beat_s=0.1, dead_s=2):  # no waiting after a clean end
        assert path.exists()


def test_a_killed_drivers_lease_is_taken_over(s3: S3Server, tmp_path: Path) -> None:
    path = remote_path(s3.uri(f"tests/{tmp_path.name}/driver.json"))
    left = {"owner": "gone", "host": "elsewhere", "boot": "1", "pid": 1, "count": 7}
    write_json(path, left)
    said: list[str] = []
    with lease.held(path, said.append, beat_s=0.1, dead_s=0.5):
        assert (read_json(path) or {})["owner"] != "gone"
    write_json(path, left | lease._here() | {"pid": 2**22 + 1})  # of this machine, and dead
    with lease.held(path, said.append, beat_s=0.1, dead_s=60):
        pass
    assert len(said) == 1 and "held by process 1 on elsewhere: waiting up to" in said[0]
