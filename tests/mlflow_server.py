"""A real MLflow server on loopback, and a proxy in front of one that refuses what it is told to."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.ports import free_ports
from tests.waiting import wait_until

PAGE = b"<html><head><title>Refused</title></head><body><h1>Refused</h1></body></html>"


class Server:
    """An MLflow server on loopback that can be killed and started again."""

    def __init__(self, folder: Path, *options: str):
        (self.port,) = free_ports(1)
        self.uri, self.folder = f"http://127.0.0.1:{self.port}", folder
        self._options = options
        own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._environment = {
            k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"
        } | own
        folder.mkdir()
        self.start()

    def start(self) -> None:
        database, artifacts = f"sqlite:///{self.folder}/mlflow.db", str(self.folder / "artifacts")
        options = {
            "--backend-store-uri": database,
            "--artifacts-destination": artifacts,
            "--host": "127.0.0.1",
            "--port": str(self.port),
            "--workers": "1",
        }
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server"),
                *(word for option in options.items() for word in option),
                *self._options,
            ],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self._answers, process=self._process, every_s=0.2, what="the server's answer")

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=1)
        except OSError:
            return False
        return True

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Proxy:
    """Passes requests on to a server, but for those that it refuses as a proxy does, by a page.

    Attributes:
        refusals: status by a pattern of "METHOD path"; the first that is found holds.
        largest: bytes of a body that it lets through.
        lost: patterns of requests that it passes on once without giving their answer back.
    """

    def __init__(self, target: str):
        self.target = target
        self.refusals: dict[str, int] = {}
        self.largest: int | None = None
        self.lost: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def clear(self) -> None:
        self.refusals, self.largest, self.lost = {}, None, []

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, bytes] | None:
        """Status and body of the answer; None: there is none."""
        request = f"{method} {path}"
        for pattern, status in self.refusals.items():
            if re.search(pattern, request):
                return status, PAGE
        if self.largest is not None and len(body) > self.largest:
            return 413, PAGE
        kept = {k: v for k, v in headers.items() if k.lower() not in ("host", "content-length")}
        passed = urllib.request.Request(
            self.target + path, data=body or None, headers=kept, method=method
        )
        try:
            with urllib.request.urlopen(passed) as answer:
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        for pattern in self.lost:
            if re.search(pattern, request):
                self.lost.remove(pattern)
                return None
        return status, content

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answer = proxy.answer(self.command, self.path, self.headers, body)
                if answer is None:
                    self.close_connection = True
                    return
                self.send_response(answer[0])
                self.send_header("Content-Length", str(len(answer[1])))
                self.end_headers()
                self.wfile.write(answer[1])

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


@contextmanager
def proxied_server(folder: Path) -> Iterator[Proxy]:
    """A server in the folder, which is made, behind a proxy."""
    server = Server(folder)
    proxy = Proxy(server.uri)
    try:
        yield proxy
    finally:
        proxy.stop()
        server.kill()
