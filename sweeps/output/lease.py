"""One driver at a time where no lock of a file system reaches: a lease in the store that beats.

No clocks are compared: a lease that does not change for a while is of a driver that was killed.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from trainables.errors import UserError
from trainables.storage.files import read_json, write_json
from trainables.storage.object_store import RemotePath

BEAT_S = 10.0
DEAD_S = 45.0


@dataclass(frozen=True)
class Lease:
    """A driver's sign of life, at ``path``."""

    path: RemotePath
    owner: str

    def beat(self, count: int) -> None:
        write_json(self.path, {"owner": self.owner, **_here(), "pid": os.getpid(), "count": count})

    @property
    def ours(self) -> bool:
        return bool((read_json(self.path) or {}).get("owner") == self.owner)


@contextmanager
def held(
    path: RemotePath,
    say: Callable[[str], None],
    beat_s: float = BEAT_S,
    dead_s: float = DEAD_S,
) -> Iterator[None]:
    """Hold the lease while the block runs; one left by a killed driver is waited out.

    Raises:
        UserError: a living driver holds it.
    """
    _wait_out(path, say, beat_s, dead_s)
    lease = Lease(path, secrets.token_hex(8))
    lease.beat(0)
    if not lease.ours:
        raise UserError(_in_use(path, "another that began with this one"))
    over = threading.Event()

    def keep() -> None:
        count = 0
        while not over.wait(beat_s):
            count += 1
            lease.beat(count)

    beating = threading.Thread(target=keep, name="lease", daemon=True)
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join(timeout=beat_s)
        if lease.ours:
            path.unlink(missing_ok=True)


def _wait_out(path: RemotePath, say: Callable[[str], None], beat_s: float, dead_s: float) -> None:
    first = read_json(path)
    if first is None or _gone(first):
        return
    say(f"{path} is held by {_where(first)}: waiting up to {dead_s:.0f} s for a sign of life")
    began = time.monotonic()
    while time.monotonic() - began < dead_s:
        time.sleep(min(beat_s, dead_s) / 5)
        found = read_json(path)
        if found is None:
            return
        if found != first:
            raise UserError(_in_use(path, _where(found)))


def _here() -> dict[str, str]:
    """This machine, as long as it is up."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return {
        "host": socket.gethostname(),
        "boot": boot.read_text().strip() if boot.exists() else "",
    }


def _where(found: Mapping[str, Any]) -> str:
    return f"process {found['pid']} on {found['host']}"


def _gone(found: Mapping[str, Any]) -> bool:
    """Whether it was a process of this machine that is no more: then nobody need be waited for."""
    if not found["boot"] or {name: found[name] for name in _here()} != _here():
        return False
    return not psutil.pid_exists(found["pid"])


def _in_use(path: RemotePath, where: str) -> str:
    return f"--storage {path.parent} is in use by another running sweep ({where}): wait for it."
