"""Allow one driver at a time in an object store, by a lease that is renewed while it runs.

Clocks of machines are not compared: a lease that does not change for ``DEAD_S`` belongs to a driver
that was killed.
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
from trainables.storage.damage import DamagedFileError
from trainables.storage.files import read_json, write_json
from trainables.storage.object_store import RemotePath

BEAT_S = 10.0  # between two renewals
DEAD_S = 45.0  # without a renewal, after which a lease is taken over


@dataclass(frozen=True)
class Lease:
    """The lease of a driver, stored at ``path``."""

    path: RemotePath
    owner: str

    def beat(self, count: int) -> None:
        """Write the lease, with the number of renewals so far."""
        write_json(
            self.path, {"owner": self.owner, **_machine(), "pid": os.getpid(), "count": count}
        )

    @property
    def ours(self) -> bool:
        """Whether the store holds this lease, and not that of another driver."""
        return (_read(self.path) or {}).get("owner") == self.owner


@contextmanager
def held(
    path: RemotePath,
    say: Callable[[str], None],
    beat_s: float = BEAT_S,
    dead_s: float = DEAD_S,
) -> Iterator[None]:
    """Hold the lease at ``path`` while the block runs.

    A lease that a killed driver left is taken over: at once if it was of this machine, else after
    ``dead_s``.

    Args:
        say: shows a line to the user.
        beat_s: seconds between two renewals.
        dead_s: seconds without a renewal after which a lease is taken over.

    Raises:
        UserError: a running driver holds it.
    """
    _wait_out(path, say, beat_s, dead_s)
    lease = Lease(path, secrets.token_hex(8))
    lease.beat(0)
    if not lease.ours:
        raise UserError(_in_use(path, "another that began with this one"))
    over = threading.Event()

    def renew() -> None:
        count = 0
        while not over.wait(beat_s):
            count += 1
            lease.beat(count)

    renewal = threading.Thread(target=renew, name="lease", daemon=True)
    renewal.start()
    try:
        yield
    finally:
        over.set()
        renewal.join(timeout=beat_s)
        if lease.ours:
            path.unlink(missing_ok=True)


def _wait_out(path: RemotePath, say: Callable[[str], None], beat_s: float, dead_s: float) -> None:
    """Return once no other driver holds the lease.

    Raises:
        UserError: the lease was renewed in the meantime.
    """
    first = _read(path)
    if first is None or _has_ended(first):
        return
    say(f"{path} is held by {_holder(first)}: waiting up to {dead_s:.0f} s for a sign of life")
    began = time.monotonic()
    while time.monotonic() - began < dead_s:
        time.sleep(min(beat_s, dead_s) / 5)
        current = _read(path)
        if current is None:
            return
        if current != first:
            raise UserError(_in_use(path, _holder(current)))


def _read(path: RemotePath) -> dict[str, Any] | None:
    """Read a lease; None: there is none. What is no lease counts as that of nobody known."""
    try:
        lease = read_json(path)
    except DamagedFileError:
        lease = {}
    return lease if lease is None or isinstance(lease, dict) else {}


def _machine() -> dict[str, str]:
    """Identify this machine, until it is started anew."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return {
        "host": socket.gethostname(),
        "boot": boot.read_text().strip() if boot.exists() else "",
    }


def _holder(lease: Mapping[str, Any]) -> str:
    return f"process {lease.get('pid', '?')} on {lease.get('host', '?')}"


def _has_ended(lease: Mapping[str, Any]) -> bool:
    """Say whether the lease was held by a process of this machine that runs no more."""
    if not lease.get("boot") or {name: lease.get(name) for name in _machine()} != _machine():
        return False
    pid = lease.get("pid")
    return isinstance(pid, int) and not psutil.pid_exists(pid)


def _in_use(path: RemotePath, holder: str) -> str:
    return f"--storage {path.parent} is in use by another running sweep ({holder}): wait for it."
