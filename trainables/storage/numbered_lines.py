"""Keep a file of JSON lines in an object store, where nothing can be appended to an object.

A line is an object of its own, ``<name>.lines/<number>.json`` beside the file, counted from 1 and
written only where there is none: of several writers at once none overwrites another's line, and a
line costs the same whether it is the first or the thousandth. What earlier versions wrote into the
file itself comes before its numbered lines.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from trainables.storage import conditional
from trainables.storage.hashing import canonical_json
from trainables.storage.object_store import MAX_REQUESTS_AT_ONCE, RemotePath

# Has it digits to spare, names are listed in the order of the numbers.
NAME = re.compile(r"(\d{8,})\.json")


def line_path(path: RemotePath, number: int) -> RemotePath:
    """Locate a line of a file."""
    return path.with_suffix(".lines") / f"{number:08d}.json"


def last_number(path: RemotePath) -> int:
    """Look up the number of the last line; 0: there is none."""
    return max(_numbers(path), default=0)


def create_line(path: RemotePath, number: int, value: Any, writer: str) -> bool:
    """Write a line under a number.

    Args:
        writer: tells this process from others, whose lines may say the same.

    Returns:
        Whether the number was free.
    """
    content = canonical_json({"line": value, "writer": writer}).encode() + b"\n"
    return conditional.create(line_path(path, number), content) is not None


def append_numbered(path: RemotePath, value: Any) -> None:
    """Write a line under the next free number, whoever else does so at the same moment."""
    number, writer = last_number(path) + 1, secrets.token_hex(8)
    while not create_line(path, number, value, writer):
        number += 1


def read_numbered(path: RemotePath) -> list[bytes]:
    """Read all lines in their order, as JSON without line breaks; b"": it is damaged."""
    try:
        before = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        before = []
    return [*before, *_read_objects(path, sorted(_numbers(path)))]


def read_line(path: RemotePath, number: int) -> bytes | None:
    """Read one numbered line; None: there is none."""
    found = conditional.read(line_path(path, number))
    return None if found is None else _unwrapped(found[0])


def _numbers(path: RemotePath) -> list[int]:
    names = (child.name for child in path.with_suffix(".lines").children())
    return [int(match[1]) for match in map(NAME.fullmatch, names) if match]


def _read_objects(path: RemotePath, numbers: Sequence[int]) -> list[bytes]:
    if not numbers:
        return []
    with ThreadPoolExecutor(MAX_REQUESTS_AT_ONCE) as pool:
        lines = pool.map(lambda number: read_line(path, number), numbers)
        return [b"" if line is None else line for line in lines]


def _unwrapped(content: bytes) -> bytes:
    """Take a line out of its object; content that is none is given as it is, to be told of."""
    try:
        return json.dumps(json.loads(content.decode("utf-8"))["line"]).encode()
    except Exception:  # of any type, as any bytes may stand there
        return content.replace(b"\n", b" ") or b"?"
