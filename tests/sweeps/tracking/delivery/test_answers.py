"""What MLflow's answers mean: to wait, to try a few times, or to give up; and their words."""

from __future__ import annotations

import errno
import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    REQUEST_LIMIT_EXCEEDED,
    TEMPORARILY_UNAVAILABLE,
)
from mlflow.tracking import MlflowClient
from mlflow.utils.rest_utils import verify_rest_response

from sweeps.tracking.delivery.answers import answered_status, call_of, judge, reason_of
from sweeps.tracking.delivery.outbox import Verdict

AWAY, FAULT, REFUSED = Verdict.AWAY, Verdict.FAULT, Verdict.REFUSED


def an_answer(status: int, body: str = "<html>a page</html>") -> requests.Response:
    answer = requests.Response()
    answer.status_code, answer._content, answer.url = status, body.encode(), "http://h/x"
    return answer


def of_mlflow(status: int, body: str = "<html>a page</html>") -> Exception:
    """The error that MLflow's client makes of an answer."""
    with pytest.raises(MlflowException) as error:
        verify_rest_response(an_answer(status, body), "/api/2.0/mlflow/runs/create")
    return error.value


def of_upload(status: int) -> Exception:
    with pytest.raises(requests.HTTPError) as error:
        an_answer(status).raise_for_status()
    return error.value


def of_sqlite(words: str) -> Exception:
    """The error that MLflow makes of one of a database."""
    error = MlflowException(words, error_code=TEMPORARILY_UNAVAILABLE)
    own = sqlite3.OperationalError(words)
    error.__cause__ = sqlalchemy.exc.OperationalError("INSERT", {}, own)
    return error


class ClientError(Exception):
    """As botocore's."""

    response = {"ResponseMetadata": {"HTTPStatusCode": 403}}  # noqa: RUF012


class HTTPClientError(Exception):
    """As botocore's."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MlflowException("API request to http://h failed with exception refused"), AWAY),
        (MlflowException("API request to http://h failed with timeout exception x"), AWAY),
        (MlflowException("slow down", error_code=REQUEST_LIMIT_EXCEEDED), AWAY),
        (MlflowException("bad name", error_code=INVALID_PARAMETER_VALUE), REFUSED),
        (MlflowException("something of its own"), FAULT),
        (
            MlflowException(
                "API request to http://h failed with exception Max retries exceeded "
                "(Caused by ResponseError('too many 500 error responses'))"
            ),
            FAULT,
        ),
        (RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no run"}), REFUSED),
        (RestException({"error_code": "INTERNAL_ERROR", "message": "a bug"}), FAULT),
        (RestException({"error_code": "413", "message": "too large"}), REFUSED),
        (RestException({"error_code": "OF_A_GATEWAY", "message": "no"}), FAULT),
        (RestException({"message": "Request Too Long"}), FAULT),
        (ConnectionResetError(), AWAY),
        (TimeoutError(), AWAY),
        (socket.gaierror(-2, "Name or service not known"), AWAY),
        (requests.ConnectionError("no route"), AWAY),
        (requests.exceptions.InvalidURL("no host"), REFUSED),
        (OSError("an answer of pyarrow's"), AWAY),
        (OSError(errno.ESTALE, "stale handle"), AWAY),
        (OSError(errno.ENOSPC, "No space left on device"), REFUSED),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/proc/nope"), REFUSED),
        (PermissionError(errno.EACCES, "Permission denied", "/root"), REFUSED),
        (NotADirectoryError(), REFUSED),
        (of_sqlite("database is locked"), AWAY),
        (of_sqlite("database or disk is full"), FAULT),
        (of_sqlite("attempt to write a readonly database"), FAULT),
        (ClientError(), REFUSED),
        (HTTPClientError(), AWAY),
        (ModuleNotFoundError("No module named 'boto3'"), REFUSED),
        (ValueError("a mistake"), REFUSED),
        (KeyError("a mistake"), REFUSED),
    ],
)
def test_another_try_helps_where_nobody_answered(error: Exception, expected: Verdict) -> None:
    assert judge(error) is expected


@pytest.mark.parametrize("make", [of_mlflow, of_upload])
@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ((400, 401, 403, 404, 409, 413, 414, 422, 431), REFUSED),
        ((408, 425, 429, 502, 503, 504), AWAY),
        ((500, 501, 505, 507), FAULT),
    ],
)
def test_a_status_means_the_same_of_a_request_and_of_an_upload(
    make: Any, statuses: tuple[int, ...], expected: Verdict
) -> None:
    for status in statuses:
        error = make(status)
        assert (answered_status(error), judge(error)) == (status, expected)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (of_mlflow(403), "403 Forbidden"),
        (of_upload(404), "404 Not Found"),
        (of_mlflow(599), "599"),
        (
            of_mlflow(400, '{"error_code": "INVALID_PARAMETER_VALUE", "message": "bad.\\nmore"}'),
            "INVALID_PARAMETER_VALUE: bad",
        ),
        (
            MlflowException(
                "API request to http://h failed with exception HTTPConnectionPool(host='h'): "
                "(Caused by NewConnectionError('x: [Errno 111] Connection refused'))"
            ),
            "Connection refused",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/proc/nope"),
         "No such file or directory: /proc/nope"),
        (KeyError("x"), "KeyError: 'x'"),
    ],
)  # fmt: skip
def test_a_reason_is_a_few_words(error: Exception, words: str) -> None:
    assert reason_of(error) == words


def test_the_call_that_failed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # as in a sweep
    client = MlflowClient(tracking_uri="http://127.0.0.1:1")
    with pytest.raises(MlflowException) as error:
        client.log_artifact("a" * 32, str(tmp_path))
    assert call_of(error.value) == "log_artifact"
    assert call_of(ValueError("of no call")) is None
