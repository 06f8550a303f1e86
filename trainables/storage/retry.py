"""Try again where a file system or an object store does not answer for a while, and warn once."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from trainables.errors import SweepError
from trainables.storage.full_disk import disk_full, disk_state

MAX_OUTAGE_S = 300.0  # without an answer: long enough for a restart of the store
MAX_FULL_S = 10.0  # with a full disk: nothing is lost by an end, as the same command continues
FIRST_PAUSE_S = 0.5  # doubled after each try
MAX_PAUSE_S = 10.0
MAX_LINE_LENGTH = 200  # characters of an error that a message quotes
# Parts of messages of errors that no waiting cures, as pyarrow words them for S3, and others.
PERMANENT_ERRORS = (
    *("ACCESS_DENIED", "NO_SUCH_BUCKET", "NO_SUCH_KEY", "INVALID_ACCESS_KEY_ID"),
    *("SIGNATURE_DOES_NOT_MATCH", "INVALID_SIGNATURE", "MISSING_AUTHENTICATION_TOKEN"),
    *("INVALID_CLIENT_TOKEN_ID", "EXPIRED_TOKEN", "UNRECOGNIZED_CLIENT", "VALIDATION"),
    *("HTTP status 301", "HTTP status 401", "HTTP status 403", "PERMISSION_DENIED"),
)
# Local and network file systems give these for states that may end.
TRANSIENT_ERRNOS = frozenset(
    getattr(errno, name) for name in ("EAGAIN", "EBUSY", "EIO", "ESTALE", "ETIMEDOUT")
)
log = logging.getLogger("fixres")
T = TypeVar("T")


def with_retries(action: Callable[[], T], path: str) -> T:
    """Read or write a file, again and again while its store does not answer.

    Args:
        action: what to do; it may be called many times.
        path: the file, for messages.

    Raises:
        DiskFullError: the disk has been full for ``MAX_FULL_S``, whatever library said so.
        SweepError: there was no answer for ``MAX_OUTAGE_S``.
        OSError: an error that waiting does not cure.
    """
    began, pause, warned = time.monotonic(), FIRST_PAUSE_S, False
    while True:
        try:
            return action()
        except SweepError:
            raise
        except Exception as error:
            state = disk_state(error)
            if state is None and not (isinstance(error, OSError) and is_transient(error)):
                raise
            waited_s = time.monotonic() - began
            if state is not None and waited_s > MAX_FULL_S:
                raise disk_full(state, path) from error
            if waited_s > MAX_OUTAGE_S:
                raise SweepError(
                    f"{path} could not be read or written for {MAX_OUTAGE_S:.0f} s "
                    f"({first_line(error)}): the same command goes on once it can."
                ) from error
            if not warned:
                if state is None:
                    log.warning("%s: %s; trying again", path, first_line(error))
                else:
                    log.warning("%s Until then it is tried again.", disk_full(state, path))
                warned = True
            time.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_S)


def is_transient(error: OSError) -> bool:
    """Whether the same action may succeed a little later."""
    if error.errno is not None:
        return error.errno in TRANSIENT_ERRNOS
    if type(error) is not OSError:  # pyarrow's are plain; io.UnsupportedOperation will not pass
        return False
    return not any(text in str(error) for text in PERMANENT_ERRORS)


def first_line(error: Exception) -> str:
    """Quote an error in a message: its first line, cut short, or its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0][:MAX_LINE_LENGTH]
