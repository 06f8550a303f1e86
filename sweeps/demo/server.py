"""Serve the page, the model and ONNX Runtime for browsers, on this machine alone.

There is a list of what is served, by address: no path of the disk follows from what is asked for.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

from sweeps.demo.settings import page_settings
from sweeps.final_model.written_model import ONNX_FILE
from trainables.errors import UserError, printable

HOST = "127.0.0.1"
HERE = Path(__file__).parent
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
}
PACKAGE = "onnxruntime-web"
# Of that npm package: what runs nets on the CPU, by WebAssembly.
RUNTIME_FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)
HEADERS = {
    # Nothing but what is served here is loaded, run or called, and no other page frames this one.
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; "
    "worker-src 'self' blob:; connect-src 'self'; style-src 'self'; img-src blob: data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    # With these two a page may use several threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class Served:
    """What an address gives: a file, or bytes that were made here."""

    kind: str
    content: Path | bytes

    @property
    def size(self) -> int:
        """Bytes of it."""
        content = self.content
        return len(content) if isinstance(content, bytes) else content.stat().st_size

    def open(self) -> BinaryIO:
        """Open it for reading."""
        content = self.content
        return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


class DemoServer(ThreadingHTTPServer):
    """Serves a list of addresses on loopback."""

    daemon_threads = True

    def __init__(self, port: int, served: Mapping[str, Served]):
        super().__init__((HOST, port), _Handler)
        self.served = served

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: DemoServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def _answer(self, *, with_content: bool) -> None:
        if not self._is_for_us():
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        found = self.server.served.get(self.path.partition("?")[0])
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        with found.open() as content, suppress(ConnectionError):  # of a browser that has gone on
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", found.kind)
            self.send_header("Content-Length", str(found.size))
            self.end_headers()
            if with_content:
                shutil.copyfileobj(content, self.wfile)

    def _is_for_us(self) -> bool:
        """Whether the page was asked for by this machine's name, and not by one led here (DNS)."""
        return self.headers.get("Host", "").partition(":")[0] in (HOST, "localhost")

    def end_headers(self) -> None:
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def version_string(self) -> str:
        return "fixres"

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


def demo_server(folder: Path, runtime: Path, port: int) -> DemoServer:
    """Make the server of a page that classifies images with a model.

    Args:
        folder: OUT/model of a finished sweep.
        runtime: folder of the npm package onnxruntime-web.
        port: 0 for any that is free.

    Raises:
        UserError: one of the folders is none, the model is none that a page can run, or the port
            is taken.
    """
    served = {
        "/model.json": Served(KINDS[".json"], page_settings(folder).as_json()),
        "/model.onnx": _file(folder / ONNX_FILE),
        **{f"/ort/{path.name}": _file(path) for path in _runtime_files(runtime)},
        **{f"/{name}": _file(HERE / name) for name in ("demo.css", "demo.mjs", "preprocess.mjs")},
        "/": _file(HERE / "page.html"),
    }
    try:
        return DemoServer(port, served)
    except OSError as error:
        raise UserError(
            f"--port {port} cannot be taken ({error.strerror}): give another, or 0 for any that is "
            "free."
        ) from None


def _file(path: Path) -> Served:
    return Served(KINDS[path.suffix], path)


def _runtime_files(folder: Path) -> list[Path]:
    """List the files of onnxruntime-web that the page loads.

    Raises:
        UserError: the folder is not that of the package.
    """
    files = [folder / "dist" / name for name in RUNTIME_FILES]
    try:
        is_package = json.loads((folder / "package.json").read_bytes())["name"] == PACKAGE
    except (OSError, ValueError, KeyError, TypeError):
        is_package = False
    if not is_package or not all(path.is_file() for path in files):
        raise UserError(
            f"{printable(str(folder))} is not the npm package {PACKAGE}, which --demo runs in the "
            f"browser: npm install {PACKAGE}, and name its folder with --onnxruntime-web."
        )
    return files
