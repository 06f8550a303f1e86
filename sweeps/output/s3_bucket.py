"""Check an S3 bucket, abort stale uploads in it, and sign download links.

Paths in stores other than S3 are passed over.
"""

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

# Answers to a request for the bucket, by status code.
REFUSALS = {
    "404": "there is no such bucket; create it, or correct the name",
    "403": "these credentials may not use the bucket; check its policy and yours",
    "301": "the bucket is in another region; set AWS_REGION to that",
}
STALE_UPLOAD_AGE = timedelta(days=1)  # No upload of a sweep takes as long.


def check_bucket(path: RemotePath, option: str) -> None:
    """Check that the bucket of a path exists and may be used.

    Args:
        option: the option that names the path, for the message.

    Raises:
        UserError: the bucket is missing, refused or out of reach.
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
    """Abort the multipart uploads below a path that killed processes left: they cost storage.

    Returns:
        The number of uploads that were aborted.
    """
    if path.scheme != "s3":
        return 0
    client, aborted = _client(path), 0
    bucket = {"Bucket": path.bucket}
    pages = client.get_paginator("list_multipart_uploads").paginate(**bucket, Prefix=f"{path.key}/")
    for page in pages:
        for upload in page.get("Uploads", ()):
            if datetime.now(UTC) - upload["Initiated"] > STALE_UPLOAD_AGE:
                key = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                client.abort_multipart_upload(**bucket, **key)
                aborted += 1
    return aborted


def credentials_end() -> datetime | None:
    """Return when the credentials end, and with them all that they signed; None: it is not known.

    Those of a role end, usually within hours; a key of a user does not.
    """
    credentials = boto3.Session().get_credentials()
    end = getattr(credentials, "_expiry_time", None)  # botocore has no public name for it.
    return end if isinstance(end, datetime) else None


def presigned_links(paths: Sequence[RemotePath], days: float) -> dict[RemotePath, str]:
    """Sign links through which anyone may download the objects, for some days.

    A link ends earlier if the credentials that sign it do: see :func:`credentials_end`.

    Args:
        paths: objects of one bucket, at least one.
        days: at most 7; S3 signs no longer validity.

    Returns:
        A link for each path; empty where they are not on S3.
    """
    if paths[0].scheme != "s3":
        return {}
    client, seconds = _client(paths[0]), round(days * 86400)
    return {
        path: client.generate_presigned_url(
            "get_object", Params={"Bucket": path.bucket, "Key": path.key}, ExpiresIn=seconds
        )
        for path in paths
    }


def _client(path: RemotePath) -> Any:
    """Make a client with the credentials of the standard chain.

    Region and endpoint are those of the path's settings, where it has any.
    """
    settings = path.settings
    options: dict[str, Any] = {}
    if "region" in settings:
        options["region_name"] = settings["region"]
    if "endpoint_override" in settings:
        endpoint = settings["endpoint_override"]
        if "://" not in endpoint:
            endpoint = f"{settings.get('scheme', 'https')}://{endpoint}"
        options["endpoint_url"] = endpoint
    config = Config(
        signature_version="s3v4",
        connect_timeout=10,
        retries={"mode": "standard", "max_attempts": 3},
    )
    return boto3.Session().client("s3", config=config, **options)
