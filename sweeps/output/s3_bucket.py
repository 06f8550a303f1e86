"""What an S3 bucket needs beyond reading and writing: a look before the start, tidying, links."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from trainables.errors import UserError
from trainables.storage.object_store import RemotePath
from trainables.storage.retry import first_line

LINK_DAYS = 7  # the longest that S3 signs for
REFUSALS = {  # to asking for a bucket, by code
    "404": "there is no such bucket; create it, or correct the name",
    "403": "these credentials may not use the bucket; check its policy and yours",
    "301": "the bucket is in another region; set AWS_REGION to that",
}
STALE_UPLOAD_AGE = timedelta(days=1)  # no upload of ours takes as long


def check_bucket(path: RemotePath, option: str) -> None:
    """Raises:
    UserError: the bucket is not there, or not for us.
    """
    if path.scheme != "s3":
        return
    try:
        _client(path).head_bucket(Bucket=path.bucket)
    except NoCredentialsError:
        raise UserError(
            f"{option} {path}: no credentials for S3 were found; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, a profile, or give the machine a role."
        ) from None
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise UserError(f"{option} {path}: {REFUSALS.get(code, first_line(error))}.") from None
    except (BotoCoreError, OSError) as error:
        raise UserError(
            f"{option} {path} cannot be reached ({first_line(error)}): check the network, "
            "AWS_ENDPOINT_URL and AWS_REGION."
        ) from None


def abort_stale_uploads(path: RemotePath) -> int:
    """End uploads in parts that killed processes left: they are paid for, and seen by nobody.

    Returns:
        How many there were.
    """
    if path.scheme != "s3":
        return 0
    client, ended = _client(path), 0
    where = {"Bucket": path.bucket}
    pages = client.get_paginator("list_multipart_uploads").paginate(**where, Prefix=f"{path.key}/")
    for page in pages:
        for upload in page.get("Uploads", ()):
            if datetime.now(UTC) - upload["Initiated"] > STALE_UPLOAD_AGE:
                part = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                client.abort_multipart_upload(**where, **part)
                ended += 1
    return ended


def presigned_links(paths: Sequence[RemotePath]) -> dict[RemotePath, str]:
    """Links through which anyone may download the objects, of one bucket, for ``LINK_DAYS``; none
    where they are not on S3.

    They end earlier where the credentials that sign them do.
    """
    if paths[0].scheme != "s3":
        return {}
    client, seconds = _client(paths[0]), LINK_DAYS * 86400
    return {
        path: client.generate_presigned_url(
            "get_object", Params={"Bucket": path.bucket, "Key": path.key}, ExpiresIn=seconds
        )
        for path in paths
    }


def _client(path: RemotePath) -> Any:
    """By the standard chain, at the place that the URI's settings name."""
    settings = path.settings
    more: dict[str, Any] = {}
    if "region" in settings:
        more["region_name"] = settings["region"]
    if "endpoint_override" in settings:
        endpoint = settings["endpoint_override"]
        whole = endpoint if "://" in endpoint else f"{settings.get('scheme', 'https')}://{endpoint}"
        more["endpoint_url"] = whole
    config = Config(
        signature_version="s3v4",
        connect_timeout=10,
        retries={"mode": "standard", "max_attempts": 3},
    )
    return boto3.Session().client("s3", config=config, **more)
