"""See which names a command and all its children look up, below Python: by their system calls."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

STRACE = shutil.which("strace")
# A query of the DNS, as a process sends it: a header of 12 bytes, then a name in labels, each after
# its length. strace writes bytes as \xNN.
_SENT = re.compile(r"send(?:to|msg|mmsg)\(.*")
_BYTES = re.compile(r'"((?:\\x[0-9a-f]{2})+)"')


def watched(command: list[str], trace: Path) -> list[str]:
    """Make the command write what its processes send into ``trace``, if strace is installed."""
    if STRACE is None:
        return command
    calls = ("--follow-forks", "--seccomp-bpf", "-e", "trace=sendto,sendmsg,sendmmsg")
    return [STRACE, *calls, "-qq", "-xx", "-s", "300", "-o", str(trace), *command]


def names_looked_up(trace: Path) -> set[str]:
    """Return the names in the DNS queries of a trace."""
    found = set()
    with trace.open(errors="replace") as lines:
        for line in filter(_SENT.search, lines):
            for written in _BYTES.findall(line):
                if name := _queried(bytes.fromhex(written.replace("\\x", ""))):
                    found.add(name)
    return found


def _queried(packet: bytes) -> str | None:
    """Read the name of a DNS query; None: the bytes are none."""
    header, rest = packet[:12], packet[12:]
    # A query: not an answer, one question, no answers, at most one additional record.
    if len(header) < 12 or header[2] & 0x80 or header[4:10] != b"\0\1\0\0\0\0":
        return None
    labels = []
    while rest and rest[0]:
        length, label = rest[0], rest[1 : 1 + rest[0]]
        if length > 63 or len(label) < length or not label.isascii():
            return None
        labels.append(label.decode())
        rest = rest[1 + length :]
    # The end of the name, its type and the class of the internet.
    return ".".join(labels) if labels and rest[3:5] == b"\0\1" else None
