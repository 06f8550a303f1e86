"""The server gives what the page needs, and nothing else of this machine."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from sweeps.demo.server import RUNTIME_FILES, DemoServer, demo_server
from sweeps.predict import main
from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[3]
PAGES = {"/": "page.html", **{f"/{n}": n for n in ("demo.css", "demo.mjs", "preprocess.mjs")}}


def runtime_at(folder: Path, name: str = "onnxruntime-web") -> Path:
    """A folder as npm leaves one."""
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"name": name}))
    for file in RUNTIME_FILES:
        (folder / "dist" / file).write_text(f"// {file}")
    return folder


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    return runtime_at(tmp_path / "onnxruntime-web")


@pytest.fixture
def served(folder: Path, runtime: Path) -> Iterator[DemoServer]:
    with demo_server(folder, runtime, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    server: DemoServer, path: str, method: str = "GET", host: str | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def test_what_the_page_needs_is_served(served: DemoServer, folder: Path, runtime: Path) -> None:
    files = {path: ROOT / "sweeps" / "demo" / name for path, name in PAGES.items()}
    files |= {f"/ort/{name}": runtime / "dist" / name for name in RUNTIME_FILES}
    files["/model.onnx"] = folder / "model.onnx"
    for path, file in files.items():
        status, headers, content = ask(served, path)
        assert status == 200 and content == file.read_bytes(), path
        assert int(headers["Content-Length"]) == len(content)
        assert ask(served, path, "HEAD")[::2] == (200, b"")
    assert json.loads(ask(served, "/model.json")[2])["res"] == 64
    kinds = {path: ask(served, path)[1]["Content-Type"] for path in files}
    assert kinds["/"].startswith("text/html") and kinds["/demo.mjs"].startswith("text/javascript")
    assert kinds["/ort/ort-wasm-simd-threaded.wasm"] == "application/wasm"


@pytest.mark.parametrize(
    "path",
    [
        *("/model.safetensors", "/model", "/ort", "/ort/", "/ort/package.json", "/page.html"),
        *("/server.py", "/config.json", "/demo.css/", "//etc/passwd", "/etc/passwd"),
        *("/../server.py", "/ort/../../server.py", "/ort/..%2f..%2fserver.py", "/%2e%2e/server.py"),
        *("/ort/../model.onnx", "/./demo.css", "http://127.0.0.1/etc/passwd", "*", "/\\..\\x"),
    ],
)
def test_nothing_else_is(served: DemoServer, path: str) -> None:
    status, headers, _ = ask(served, path)
    assert status == 404 and "Content-Security-Policy" in headers


def test_only_reading_is_known(served: DemoServer) -> None:
    assert {ask(served, "/", method)[0] for method in ("POST", "PUT", "DELETE")} == {501}


@pytest.mark.parametrize("host", ["example.org", "example.org:80", "127.0.0.1.example.org", ""])
def test_a_name_that_leads_here_is_refused(served: DemoServer, host: str) -> None:
    """Else a page elsewhere could read this one, by a name of its own for 127.0.0.1."""
    assert ask(served, "/", host=host or " ")[0] == 403
    assert ask(served, "/", host=f"localhost:{served.server_port}")[0] == 200


def test_it_listens_on_loopback_alone_and_lets_nothing_else_in(served: DemoServer) -> None:
    assert served.server_address[0] == "127.0.0.1"
    assert served.address == f"http://127.0.0.1:{served.server_port}/"
    policy = ask(served, "/")[1]["Content-Security-Policy"].split("; ")
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy
    assert not [rule for rule in policy if "http" in rule or "*" in rule or "unsafe-inline" in rule]


# --- the command ------------------------------------------------------------------------------


@pytest.fixture
def models(folder: Path, tmp_path: Path) -> Path:
    """A folder with models, one of which a page can run."""
    large, deep = tmp_path / "large", tmp_path / "deep"
    for copy in (large, deep):
        copy.mkdir()
        for name in ("config.json", "MLmodel", "model.onnx"):
            shutil.copy(folder / name, copy)
    os.truncate(large / "model.onnx", 100_000_001)  # a hole, not bytes
    written = yaml.safe_load((deep / "MLmodel").read_text())
    written["flavors"]["python_function"]["config"]["whites"] = {"16-bit grey PNG": 4095}
    (deep / "MLmodel").write_text(yaml.safe_dump(written))
    (tmp_path / "good").symlink_to(folder)
    runtime_at(tmp_path / "onnxruntime-node", "onnxruntime-node")
    (tmp_path / "onnxruntime-web" / "dist").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["good"], "node_modules/onnxruntime-web is not the npm package onnxruntime-web, which"),
        (["good", "--onnxruntime-web", "onnxruntime-web"], "npm install onnxruntime-web, and name"),
        (["good", "--onnxruntime-web", "onnxruntime-node"], "onnxruntime-node is not the npm"),
        (["nowhere"], "nowhere has no config.json: name the folder OUT/model"),
        (["large"], "model.onnx has 100 MB, and --demo takes 100 MB at most: choose a smaller"),
        (["deep"], "deep is of images with more than eight bits a sample, which a browser reads"),
        (["good", "x.jpg"], "--demo takes its images in the browser: leave x.jpg out"),
        (["good", "--port", "65536"], "--port 65536 is out of bounds: give 0 to 65535"),
        (["good", "--port", "-1"], "--port -1 is out of bounds"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(
    models: Path,
    given: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(models)
    assert main([*given, "--demo"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and words in said.err and said.err.count("\n") == 1
    assert said.out == ""


def test_a_port_that_is_taken_is_named(
    folder: Path, runtime: Path, served: DemoServer, capsys: pytest.CaptureFixture[str]
) -> None:
    port = str(served.server_port)
    given = [str(folder), "--demo", "--onnxruntime-web", str(runtime), "--port", port]
    assert main(given) == 2
    assert f"--port {port} cannot be taken (Address already in use)" in capsys.readouterr().err


def test_the_command_says_where_the_page_is(folder: Path, runtime: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    options = ("--demo", "--onnxruntime-web", str(runtime), "--port", str(port))
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "sweeps" / "predict.py"), str(folder), *options],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == f"demo  http://127.0.0.1:{port}/  (Ctrl-C ends it)\n"
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/")
        assert b"<title>FixRes" in connection.getresponse().read()
        connection.close()
    finally:
        process.terminate()
        process.communicate()
