"""Judge how MLflow answered: whether to wait for it, and what a person is told of a refusal."""

from __future__ import annotations

import errno
import re
import socket
import sqlite3
import traceback
from http import HTTPStatus

from mlflow.exceptions import ERROR_CODE_TO_HTTP_STATUS, MlflowException
from mlflow.tracking import client as mlflow_client
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError as Urllib3Error

from sweeps.tracking.delivery.outbox import Verdict
from trainables.storage.retry import first_line

# Answers that say to come back: too slow, too many requests, or a proxy whose server is away.
AWAY_STATUSES = frozenset((408, 425, 429, 502, 503, 504))
# What the network says where nobody answers, and a network's file system where it may answer yet.
AWAY_ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        *("ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "ETIMEDOUT", "EPIPE", "ENETUNREACH"),
        *("EHOSTUNREACH", "ENETDOWN", "EHOSTDOWN", "EAGAIN", "EBUSY", "EINTR", "EIO", "ESTALE"),
    )
)
# The bases of botocore's errors where there was no answer; it is there only for artifacts in S3.
BOTOCORE_AWAY = frozenset(("HTTPClientError", "ConnectionError"))
# MLflow's client words two things in its message alone: the status of an answer that is not its
# server's, as a proxy gives it, and that there was no answer.
STATUS = re.compile(r"failed with error code (\d{3})\b|too many (\d{3}) error responses")
NO_ANSWER = re.compile(r"API request .*failed with (timeout )?exception", re.DOTALL)
CAUSES = re.compile(r"\[Errno -?\d+\] ([\w -]+)|(certificate verify failed[\w: -]*)|(timed out)")


def judge(error: Exception) -> Verdict:
    """Say whether another try may help after this error of a request."""
    if _is_no_answer(error):
        return Verdict.AWAY
    status = answered_status(error)
    if status in AWAY_STATUSES:
        return Verdict.FAULT if _is_broken_database(error) else Verdict.AWAY
    return Verdict.FAULT if status is not None and status >= 500 else Verdict.REFUSED


def answered_status(error: Exception) -> int | None:
    """Return the HTTP status of MLflow's answer, or what it comes to; None: it is no answer."""
    if isinstance(error, MlflowException):
        told = STATUS.search(str(error))
        if told:
            return int(told[1] or told[2])
        code = str((getattr(error, "json", None) or {}).get("error_code", ""))
        if code.isdecimal():  # A proxy's answer in JSON.
            return int(code)
        return ERROR_CODE_TO_HTTP_STATUS.get(getattr(error, "error_code", ""), 500)
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore's
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:  # that of requests, by which artifacts go
        status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def _is_no_answer(error: Exception) -> bool:
    if isinstance(error, MlflowException):
        return STATUS.search(str(error)) is None and bool(NO_ANSWER.search(str(error)))
    if answered_status(error) is not None:
        return False
    if isinstance(error, RequestException):
        return not isinstance(error, ValueError)  # It is one where the address is no address.
    if isinstance(error, (ConnectionError, TimeoutError, socket.gaierror, Urllib3Error)):
        return True
    if isinstance(error, OSError):
        # Those of pyarrow, from a sweep's store, are plain and without a number.
        return error.errno in AWAY_ERRNOS or (type(error) is OSError and error.errno is None)
    return bool(BOTOCORE_AWAY & {kind.__name__ for kind in type(error).__mro__})


def _is_broken_database(error: Exception) -> bool:
    """Whether a sqlite file gave the error, for another reason than that it was locked."""
    cause = getattr(error.__cause__, "orig", None)
    return isinstance(cause, sqlite3.Error) and "locked" not in str(cause)


def call_of(error: Exception) -> str | None:
    """Return the name of the call of MLflow's client that raised the error; None: none did."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename == mlflow_client.__file__:
            return str(frame.f_code.co_name)
    return None


def reason_of(error: Exception) -> str:
    """Say in a few words why a request failed; addresses and proxies' pages are left out."""
    if _is_no_answer(error) and (cause := CAUSES.search(str(error))):
        return str(next(filter(None, cause.groups()))).strip()
    status = answered_status(error)
    is_mlflows_own = isinstance(error, MlflowException) and STATUS.search(str(error)) is None
    if status is not None and not is_mlflows_own:
        known = {each.value: each.phrase for each in HTTPStatus}
        return f"{status} {known.get(status, '')}".strip()
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror)
    # A database's own words; those around them are of statements and parameters.
    of_database = getattr(error.__cause__, "orig", None)
    if isinstance(of_database, Exception):
        return first_line(of_database).rstrip(". ")
    if isinstance(error, MlflowException):
        return first_line(error).partition(". ")[0].rstrip(". ")
    return f"{type(error).__name__}: {first_line(error)}".rstrip(". ")
