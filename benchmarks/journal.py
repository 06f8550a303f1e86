"""Count what a journal in an object store costs and loses: an object a line against one rewritten.

    python benchmarks/journal.py

"Rewritten" is how lines were appended before they had objects of their own: the whole object was
read, and written again with one line more. Requests and bytes are counted between the clients and a
server of the S3 protocol (SeaweedFS, loopback), HTTP heads included. "Lost" are lines that were
written without an error and are not there afterwards, where two writers that know nothing of each
other append at the same time, as two drivers do that both take themselves for the only one. Last,
two drivers begin at the same moment, and it is counted how many of them go on.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter, sleep
from typing import Any

from sweeps.output.driver import driving
from tests.storing import served
from trainables.errors import ReplacedError, UserError
from trainables.storage.fenced_log import fenced_log
from trainables.storage.files import append_line, read_lines
from trainables.storage.hashing import canonical_json
from trainables.storage.object_store import RemotePath, remote_path

LINE = {"event": "rung", "trunk": "6c9bb8291c9f6dd5", "epoch": 4, "top1": 0.8125, "goes_on": True}
COUNTS, LONG, ROUNDS = (100, 1_000), 10_000, 60
REQUEST = re.compile(rb"(?:^|\r\n|\n|\})(GET|PUT|HEAD|POST|DELETE) /[^\r\n]* HTTP/1\.1\r\n")


class Meter:
    """Passes connections on to a server, and counts what goes through."""

    def __init__(self, port: int):
        self._port, self._lock = port, threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.reset()
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        self.requests = self.sent = self.received = 0

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self._port))
            for source, sink, is_sent in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=self._pass, args=(source, sink, is_sent), daemon=True
                ).start()

    def _pass(self, source: socket.socket, sink: socket.socket, is_sent: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                with self._lock:
                    if is_sent:
                        self.sent += len(data)
                        self.requests += len(REQUEST.findall(data))
                    else:
                        self.received += len(data)
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                end.close()


def rewrite(path: RemotePath, value: Any) -> None:
    try:
        before = path.read_bytes()
    except FileNotFoundError:
        before = b""
    path.write_bytes(before + canonical_json(value).encode() + b"\n")


def written(path: RemotePath, lines: int, meter: Meter, is_rewritten: bool) -> None:
    meter.reset()
    began = perf_counter()
    append = (rewriting if is_rewritten else fenced)(path)
    for i in range(lines):
        append(LINE | {"epoch": i})
    seconds, name = perf_counter() - began, "rewritten" if is_rewritten else "an object a line"
    print(
        f"| {name} | {lines:,} | {meter.requests:,} | {meter.sent / 1e6:,.2f} | "
        f"{meter.received / 1e6:,.2f} | {seconds:.1f} |"
    )


def read(path: RemotePath, lines: int, meter: Meter) -> None:
    meter.reset()
    began = perf_counter()
    assert len(read_lines(path)) == lines
    print(
        f"{lines:,} lines read: {meter.requests:,} requests, {meter.received / 1e6:.2f} MB, "
        f"{perf_counter() - began:.1f} s"
    )


def lost(prefix: RemotePath, append: Callable[[RemotePath], Callable[[Any], None]]) -> str:
    """Let two writers append a line each at the same time, round by round."""
    told = refused = missing = 0
    for number in range(ROUNDS):
        path, gate = prefix / f"{number}.jsonl", threading.Barrier(2)
        append_line(path, LINE) if append is fenced else rewrite(path, LINE)
        appends = [append(path) for _ in range(2)]

        def write(writer: int, appends: Any = appends, gate: threading.Barrier = gate) -> bool:
            gate.wait()
            try:
                appends[writer](LINE | {"epoch": writer})
            except ReplacedError:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            made = list(pool.map(write, range(2)))
        there = {line["epoch"] for line in read_lines(path)[1:]}
        told += sum(made)
        refused += made.count(False)
        missing += sum(made[writer] and writer not in there for writer in range(2))
    return f"{missing} of {told} lines lost, {refused} refused, in {ROUNDS} rounds"


def begun_at_once(prefix: RemotePath) -> Counter[int]:
    """Let two drivers begin at the same moment, round by round; how many of them went on."""
    went_on = Counter[int]()
    for number in range(ROUNDS):
        path, gate = prefix / f"{number}.json", threading.Barrier(2)

        def begin(_: int, path: RemotePath = path, gate: threading.Barrier = gate) -> bool:
            gate.wait()
            try:
                with driving(path, lambda _: None, beat_s=0.1, dead_s=8):
                    sleep(1.0)  # several renewals
            except UserError:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            went_on[sum(pool.map(begin, range(2)))] += 1
    return went_on


def fenced(path: RemotePath) -> Callable[[Any], None]:
    return fenced_log(path).append


def rewriting(path: RemotePath) -> Callable[[Any], None]:
    return lambda value: rewrite(path, value)


@contextmanager
def metered() -> Iterator[tuple[str, Meter]]:
    with served() as server:
        os.environ.update(server.environment)
        meter = Meter(int(server.endpoint.rpartition(":")[2]))
        settings = f"?endpoint_override=127.0.0.1:{meter.port}&scheme=http&region=us-east-1"
        yield f"{server.uri('journal')}{settings}", meter


def main() -> None:
    with metered() as (uri, meter):
        prefix = remote_path(uri)
        print("| lines are | lines | requests | MB sent | MB received | seconds |")
        print("|---|---:|---:|---:|---:|---:|")
        for lines in COUNTS:
            for is_rewritten in (True, False):
                path = prefix / f"{lines}-{is_rewritten}.jsonl"
                written(path, lines, meter, is_rewritten)
        read(prefix / f"{COUNTS[-1]}-False.jsonl", COUNTS[-1], meter)
        long = prefix / "long.jsonl"
        log = fenced_log(long)
        for i in range(LONG):
            log.append(LINE | {"epoch": i})
        read(long, LONG, meter)
        print("rewritten:", lost(prefix / "rewritten", rewriting))
        print("drivers that went on, of two, and rounds:", dict(begun_at_once(prefix / "begun")))
        print("an object a line:", lost(prefix / "fenced", fenced))


if __name__ == "__main__":
    main()
