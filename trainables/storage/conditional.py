"""Write an object only where there is none yet, or only where it is what was last read.

Of several processes that do so at once, one succeeds. pyarrow has no such writes: for S3, Google
Cloud Storage and Azure obstore makes them, with the same addresses and credentials; a folder has
hard links and a lock. Other stores, and servers that take no heed of a condition, are asked before
they are written to, which leaves a gap between the two: :func:`shortcoming` tells.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import boto3
import obstore
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, ObjectStore, S3Store
from pyarrow import fs

from trainables.storage.object_store import RemotePath
from trainables.storage.replacing import replacing
from trainables.storage.retry import first_line, with_retries

if TYPE_CHECKING:
    from obstore.store import RetryConfig

Tag = Mapping[str, str]
"""What tells a version of an object from those before and after it."""
Condition = Literal["create", "replace"]
T = TypeVar("T")

# A store that is away is waited for by with_retries, which tells the user.
RETRIES: RetryConfig = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}
# Root of a store and condition that it takes no heed of, as was found out.
_ignored: set[tuple[str, Condition]] = set()


def create(path: RemotePath, content: bytes) -> Tag | None:
    """Write an object where there is none.

    Args:
        content: no other process writes the same: by it an answer that was lost is made up for.

    Returns:
        Its tag; None: there is one, of another process.
    """
    return with_retries(lambda: _create(path, content), str(path)) or _own(path, content)


def replace(path: RemotePath, content: bytes, tag: Tag) -> Tag | None:
    """Write an object where the one that is there has the tag.

    Args:
        content: no other process writes the same.

    Returns:
        The new tag; None: another process has written or deleted it.
    """
    return with_retries(lambda: _replace(path, content, tag), str(path)) or _own(path, content)


def read(path: RemotePath) -> tuple[bytes, Tag] | None:
    """Read an object and its tag; None: there is none."""
    return with_retries(lambda: _get(path), str(path))


def shortcoming(prefix: RemotePath) -> str | None:
    """Find out whether the store takes heed of conditions, by writing and deleting an object.

    Returns:
        What is to be said of it; None: it does.
    """
    probe = prefix / f".conditions-{secrets.token_hex(8)}"
    why = ""
    if not _is_folder(prefix) and _client(prefix) is None:
        why = "no client for it knows conditions"
    else:
        try:
            first = _create(probe, b"1")
            if first is None or _create(probe, b"2") is not None:
                _ignored.add((prefix.root, "create"))
            replaced = None if first is None else _replace(probe, b"3", first)
            if replaced is None or _replace(probe, b"4", first or {}) is not None:
                _ignored.add((prefix.root, "replace"))
        except (OSError, NotImplementedError) as error:  # pyarrow's client has written already
            _ignored.update(((prefix.root, "create"), (prefix.root, "replace")))
            why = first_line(error)
        finally:
            probe.unlink(missing_ok=True)
    if not why and not any((prefix.root, name) in _ignored for name in ("create", "replace")):
        return None
    return (
        f"{prefix} does not refuse a write where another has written ({why or 'it overwrites'}): "
        "a driver that was replaced is told apart by asking first, which may come too late, so "
        "start one driver at a time"
    )


def _own(path: RemotePath, content: bytes) -> Tag | None:
    """Return the tag of the object if it is what this process wrote, its answer having got lost."""
    current = read(path)
    return current[1] if current is not None and current[0] == content else None


def _create(path: RemotePath, content: bytes) -> Tag | None:
    if _is_folder(path) and (path.root, "create") not in _ignored:
        return _create_file(Path(path.path), content)
    client = _client(path)
    if client is None or (path.root, "create") in _ignored:
        return None if path.exists() else _overwrite(path, content)
    return _put(client, path, content, "create", "create")


def _replace(path: RemotePath, content: bytes, tag: Tag) -> Tag | None:
    if _is_folder(path):
        return _replace_file(Path(path.path), content, tag)
    client = _client(path)
    if client is None or (path.root, "replace") in _ignored:
        current = _get(path)
        is_same = current is not None and current[1] == tag
        return _overwrite(path, content) if is_same else None
    return _put(client, path, content, "replace", dict(tag))


def _get(path: RemotePath) -> tuple[bytes, Tag] | None:
    asks_first = all((path.root, name) in _ignored for name in ("create", "replace"))
    client = None if _is_folder(path) or asks_first else _client(path)
    try:
        if client is None:
            content = path.read_bytes()
            return content, _digest(content)
        found = _told(lambda: obstore.get(client, _key(path)))
        content = _told(lambda: bytes(found.bytes()))
        return content, _tag(found.meta)
    except FileNotFoundError:
        return None


def _put(
    client: ObjectStore, path: RemotePath, content: bytes, condition: Condition, mode: Any
) -> Tag | None:
    try:
        put = _told(lambda: obstore.put(client, _key(path), content, mode=mode))
    except (AlreadyExistsError, PreconditionError, FileNotFoundError):
        return None
    except NotImplementedError:
        _ignored.add((path.root, condition))
        raise OSError(f"{path} knows no condition to {condition} an object") from None
    return _tag(put)


def _tag(named: Mapping[str, Any]) -> Tag:
    return {name: named[name] for name in ("e_tag", "version") if named[name] is not None}


def _overwrite(path: RemotePath, content: bytes) -> Tag | None:
    """Write without a condition, and look whether another process did so at the same moment."""
    path.write_bytes(content)
    current = _get(path)
    return current[1] if current is not None and current[0] == content else None


def _told(action: Callable[[], T]) -> T:
    """Turn the client's errors into those of files, apart from those of conditions.

    Raises:
        PermissionError: access is refused.
        NotImplementedError: the store does not know the condition.
        OSError: there is no answer, or another that is of no use.
    """
    try:
        return action()
    except (AlreadyExistsError, PreconditionError):
        raise
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise PermissionError(first_line(error)) from error
    except NotSupportedError as error:
        raise NotImplementedError(first_line(error)) from error
    except BaseError as error:
        if "NotImplemented" in str(error):
            raise NotImplementedError(first_line(error)) from error
        raise OSError(first_line(error)) from error


def _key(path: RemotePath) -> str:
    """Name the object within its bucket or container."""
    return path.path.strip("/").partition("/")[2]


def _client(path: RemotePath) -> ObjectStore | None:
    """Open the client that knows conditions in the store of a path; None: there is none."""
    return _client_of(path.root, path.path.strip("/").partition("/")[0])


@cache
def _client_of(root: str, bucket: str) -> ObjectStore | None:
    path = RemotePath(root=root, key="")
    endpoint = path.settings.get("endpoint_override")
    if endpoint and "://" not in endpoint:
        endpoint = f"{path.settings.get('scheme', 'https')}://{endpoint}"
    match path.filesystem.type_name:
        case "s3":
            return _s3_client(path, endpoint)
        case "gcs":
            config: Any = {"base_url": endpoint} if endpoint else {}
            options = _client_options(endpoint)
            return GCSStore(bucket, config=config, client_options=options, retry_config=RETRIES)
        case "abfs":  # abfs://account.blob.core.windows.net/container/key
            account: Any = {"account_name": path.bucket.partition(".")[0]}
            options = _client_options(os.environ.get("AZURE_STORAGE_ENDPOINT"))
            return AzureStore(bucket, config=account, client_options=options, retry_config=RETRIES)
    return None


def _s3_client(path: RemotePath, endpoint: str | None) -> ObjectStore:
    """Make a client for S3: region as pyarrow found it, credentials of the standard chain."""
    assert isinstance(path.filesystem, fs.S3FileSystem)
    named = (os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
    endpoint = endpoint or next(filter(None, named), None)
    config: Any = {"region": path.filesystem.region, "conditional_put": "etag"}
    if endpoint:
        config["endpoint"] = endpoint
    session = boto3.Session()
    return S3Store(
        path.bucket,
        config=config,
        client_options=_client_options(endpoint),
        retry_config=RETRIES,
        credential_provider=Boto3CredentialProvider(session) if session.get_credentials() else None,
    )


def _client_options(endpoint: str | None) -> Any:
    timeouts = {"connect_timeout": timedelta(seconds=10), "timeout": timedelta(minutes=1)}
    return timeouts | {"allow_http": bool(endpoint and endpoint.startswith("http://"))}


# --- a folder, which file:// names ----------------------------------------------------------------


def _is_folder(path: RemotePath) -> bool:
    return bool(path.filesystem.type_name == "local")


def _digest(content: bytes) -> Tag:
    return {"e_tag": hashlib.blake2b(content, digest_size=16).hexdigest()}


def _create_file(path: Path, content: bytes) -> Tag | None:
    """Write a file whole under a name of its own, and link it to where none may be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.link(name, path)
    except FileExistsError:
        return None
    finally:
        os.unlink(name)
    return _digest(content)


def _replace_file(path: Path, content: bytes, tag: Tag) -> Tag | None:
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # leaves no file behind
        if not path.exists() or _digest(path.read_bytes()) != tag:
            return None
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    finally:
        os.close(folder)
    return _digest(content)
