"""A bucket is checked, tidied and linked to; other stores are passed over."""

from __future__ import annotations

import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest
from botocore.credentials import Credentials, RefreshableCredentials

from sweeps.output import s3_bucket
from tests.storing import BUCKET, S3Server
from trainables.errors import UserError
from trainables.storage.files import write_text
from trainables.storage.object_store import RemotePath, remote_path


def refusal(path: RemotePath) -> str:
    with pytest.raises(UserError) as refused:
        s3_bucket.check_bucket(path, "--storage")
    return str(refused.value)


def test_a_bucket_that_may_be_used_is_accepted(s3: S3Server) -> None:
    s3_bucket.check_bucket(remote_path(s3.uri("x")), "--storage")


def test_a_bucket_that_is_missing_is_refused(s3: S3Server) -> None:
    missing = remote_path("s3://missing/x?region=us-east-1")
    assert refusal(missing).startswith("--storage s3://missing/x: there is no such bucket")


def test_wrong_credentials_are_refused(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "these credentials may not use the bucket" in refusal(remote_path(s3.uri("x")))


def test_no_credentials_are_refused(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = remote_path(s3.uri("x"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    assert "no credentials for S3 were found" in refusal(path)


def test_a_server_that_does_not_answer_is_refused(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = remote_path(s3.uri("x"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "cannot be reached" in refusal(path)


def test_only_stale_uploads_below_the_path_are_aborted(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
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

    assert s3_bucket.abort_stale_uploads(path) == 0  # They may still be going on.
    assert open_uploads() == set(keys)
    monkeypatch.setattr(s3_bucket, "STALE_UPLOAD_AGE", timedelta(days=-1))
    assert s3_bucket.abort_stale_uploads(path) == 1
    assert open_uploads() == {keys[1]}


def test_a_link_opens_without_credentials(s3: S3Server, tmp_path: Path) -> None:
    path = remote_path(s3.uri(f"tests/{tmp_path.name}/a.txt"))
    write_text(path, "content")
    links = s3_bucket.presigned_links([path], days=7)
    assert list(links) == [path]
    with urllib.request.urlopen(links[path]) as answer:
        assert answer.read() == b"content"


def test_the_paths_own_endpoint_and_region_are_taken(s3: S3Server) -> None:
    own = s3.uri("x") + "?endpoint_override=localhost:9000&scheme=http&region=eu-central-1"
    (link,) = s3_bucket.presigned_links([remote_path(own)], days=1).values()
    assert link.startswith("http://localhost:9000/") and "eu-central-1" in link


def test_the_end_of_credentials_is_known_where_they_have_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    end = datetime.now(UTC)
    role = RefreshableCredentials("a", "b", "c", end, dict, "assume-role")
    for credentials, expected in ((role, end), (Credentials("a", "b"), None), (None, None)):
        given = credentials
        monkeypatch.setattr("boto3.Session.get_credentials", lambda self, given=given: given)
        assert s3_bucket.credentials_end() == expected


def test_other_stores_are_passed_over(tmp_path: Path) -> None:
    path = remote_path(tmp_path.as_uri())
    s3_bucket.check_bucket(path, "--storage")
    assert s3_bucket.abort_stale_uploads(path) == 0
    assert s3_bucket.presigned_links([path], days=1) == {}
