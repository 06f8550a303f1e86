"""Allow one driver at a time in an object store, by a lease that is renewed while it runs.

A lease is taken, renewed and given back only as it was read last: of two drivers that do so at once
one has it. Clocks of machines are not compared: a lease that does not change for ``DEAD_S`` belongs
to a driver that was killed. One that only stood still finds out by its next renewal, which it makes
before it writes anything else.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from trainables.errors import ReplacedError, UserError
from trainables.storage import conditional
from trainables.storage.conditional import Tag
from trainables.storage.object_store import RemotePath

BEAT_S = 10.0  # between two renewals
DEAD_S = 45.0  # without a renewal, after which a lease is taken over


class Lease:
    """The lease of this process, stored at ``path``; made by :func:`take`.

    Attributes:
        epoch: one more than that of the driver before.
    """

    def __init__(self, path: RemotePath, epoch: int, sure_s: float):
        self.path, self.epoch = path, epoch
        self._owner, self._sure_s = secrets.token_hex(8), sure_s
        self._count = 0
        self._tag: Tag = {}
        self._renewed = -float("inf")
        self._lost: ReplacedError | None = None
        self._busy = threading.Lock()

    def take(self, before: Tag | None) -> bool:
        """Write the lease for the first time.

        Args:
            before: the tag of the lease that it replaces; None: there is none.

        Returns:
            Whether no other driver has in the meantime.
        """
        began = _now_s()
        tag = (
            conditional.create(self.path, self._content())
            if before is None
            else conditional.replace(self.path, self._content(), before)
        )
        if tag is not None:
            self._tag, self._renewed = tag, began
        return tag is not None

    @property
    def is_lost(self) -> bool:
        """Whether this process knows that another driver has taken the lease over."""
        return self._lost is not None

    def renew(self) -> None:
        """Write the lease again.

        Raises:
            ReplacedError: another driver has taken it over.
        """
        with self._busy:
            self._write()

    def check(self) -> None:
        """Renew the lease, unless that was so lately that no other driver can have taken it over.

        Raises:
            ReplacedError: another driver has.
        """
        with self._busy:
            if self._lost is not None or _now_s() - self._renewed > self._sure_s:
                self._write()

    def give_back(self) -> None:
        """Tell the next driver that it need not wait, unless another has the lease by now."""
        with self._busy:
            if self._lost is None:
                conditional.replace(self.path, self._content(ended=True), self._tag)

    def _write(self) -> None:
        if self._lost is not None:
            raise self._lost
        began, self._count = _now_s(), self._count + 1
        tag = conditional.replace(self.path, self._content(), self._tag)
        if tag is None:
            current = conditional.read(self.path)
            self._lost = ReplacedError(
                f"--storage {self.path.parent} was taken over by another sweep "
                f"({_holder(_parsed(current[0]) if current else {})}) while this one stood still: "
                "this one has stopped and changed nothing since; wait for the other."
            )
            raise self._lost
        self._tag, self._renewed = tag, began

    def _content(self, ended: bool = False) -> bytes:
        lease = {"owner": self._owner, **_machine(), "pid": os.getpid(), "count": self._count}
        lease |= {"epoch": self.epoch} | ({"ended": True} if ended else {})
        return (json.dumps(lease, indent=2) + "\n").encode()


def take(
    path: RemotePath,
    say: Callable[[str], None],
    beat_s: float = BEAT_S,
    dead_s: float = DEAD_S,
) -> Lease:
    """Take the lease at ``path``.

    One that a killed driver left is taken over: at once if it was of this machine, else after
    ``dead_s``.

    Args:
        say: shows a line to the user.
        beat_s: seconds between two renewals.
        dead_s: seconds without a renewal after which a lease is taken over.

    Raises:
        UserError: a running driver holds it.
    """
    found = _wait_out(path, say, beat_s, dead_s)
    before, tag = (_parsed(found[0]), found[1]) if found else ({}, None)
    epoch = before.get("epoch", 0)
    lease = Lease(path, epoch + 1 if isinstance(epoch, int) else 1, sure_s=dead_s / 2)
    if not lease.take(tag):
        raise UserError(_in_use(path, "another that began with this one"))
    return lease


def _wait_out(
    path: RemotePath, say: Callable[[str], None], beat_s: float, dead_s: float
) -> tuple[bytes, Tag] | None:
    """Return the lease, if there is one, once it is no running driver's.

    Raises:
        UserError: the lease was renewed in the meantime.
    """
    first = conditional.read(path)
    if first is None or _has_ended(_parsed(first[0])):
        return first
    holder = _holder(_parsed(first[0]))
    say(f"{path} is held by {holder}: waiting up to {dead_s:.0f} s for a sign of life")
    began = time.monotonic()
    while time.monotonic() - began < dead_s:
        time.sleep(min(beat_s, dead_s) / 5)
        current = conditional.read(path)
        if current is None or _parsed(current[0]).get("ended"):
            return current
        if current[0] != first[0]:
            raise UserError(_in_use(path, _holder(_parsed(current[0]))))
    return first


def _parsed(content: bytes) -> Mapping[str, Any]:
    """Read a lease. What is no lease counts as that of nobody known."""
    try:
        lease = json.loads(content)
    except ValueError:
        lease = {}
    return lease if isinstance(lease, dict) else {}


def _now_s() -> float:
    """Read a clock that goes on while the process, or the machine, stands still."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _machine() -> dict[str, str]:
    """Identify this machine, until it is started anew."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return {
        "host": socket.gethostname(),
        "boot": boot.read_text().strip() if boot.exists() else "",
    }


def _holder(lease: Mapping[str, Any]) -> str:
    return f"process {lease.get('pid', '?')} on {lease.get('host', '?')}"


def this_driver() -> str:
    """Name this process for messages of others."""
    return _holder(_machine() | {"pid": os.getpid()})


def _has_ended(lease: Mapping[str, Any]) -> bool:
    """Say whether the lease was given back, or held by a process of this machine that is gone."""
    if lease.get("ended"):
        return True
    if not lease.get("boot") or {name: lease.get(name) for name in _machine()} != _machine():
        return False
    pid = lease.get("pid")
    return isinstance(pid, int) and not psutil.pid_exists(pid)


def _in_use(path: RemotePath, holder: str) -> str:
    return f"--storage {path.parent} is in use by another running sweep ({holder}): wait for it."
