"""Wait for a file system or an object store that does not answer, and say so."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import TypeVar

from trainables.errors import SweepError

MAX_OUTAGE_S = 300.0  # with a store that does not answer: long enough for a restart of it
MAX_PAUSE_S = 10.0
# What waiting does not cure, as pyarrow words it for S3, and as other stores do.
PERMANENT_ERRORS = (
    *("ACCESS_DENIED", "NO_SUCH_BUCKET", "NO_SUCH_KEY", "INVALID_ACCESS_KEY_ID"),
    *("SIGNATURE_DOES_NOT_MATCH", "INVALID_SIGNATURE", "MISSING_AUTHENTICATION_TOKEN"),
    *("INVALID_CLIENT_TOKEN_ID", "EXPIRED_TOKEN", "UNRECOGNIZED_CLIENT", "VALIDATION"),
    *("HTTP status 301", "HTTP status 401", "HTTP status 403", "PERMISSION_DENIED"),
)
# Of a local or a network file system.
TRANSIENT_ERRNOS = frozenset(
    getattr(errno, name)
    for name in ("EAGAIN", "EBUSY", "EDQUOT", "EIO", "ENOSPC", "EROFS", "ESTALE", "ETIMEDOUT")
)
log = logging.getLogger("fixres")
T = TypeVar("T")


def with_retries(act: Callable[[], T], what: str) -> T:
    """Do something with a file, again and again while its store does not answer.

    Raises:
        SweepError: it did not for ``PATIENCE_S``.
    """
    began, wait, told = time.monotonic(), 0.5, False
    while True:
        try:
            return act()
        except OSError as error:
            if not is_transient(error):
                raise
            if time.monotonic() - began > MAX_OUTAGE_S:
                raise SweepError(
                    f"{what} could not be read or written for {MAX_OUTAGE_S:.0f} s "
                    f"({first_line(error)}): the same command goes on once it can."
                ) from error
            if not told:
                log.warning("%s: %s; trying again", what, first_line(error))
                told = True
            time.sleep(wait)
            wait = min(2 * wait, MAX_PAUSE_S)


def is_transient(error: OSError) -> bool:
    """Whether the same may work a little later."""
    if error.errno is not None:
        return error.errno in TRANSIENT_ERRNOS
    if type(error) is not OSError:  # pyarrow's are plain; io.UnsupportedOperation will not pass
        return False
    return not any(word in str(error) for word in PERMANENT_ERRORS)


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
