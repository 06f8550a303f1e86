"""Read and write ``latency.json``: the latencies of nets on one machine; imports nothing heavy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.errors import UserError
from trainables.profiling.latency import Conditions, Latency
from trainables.storage.hashing import to_jsonable
from trainables.storage.replacing import replacing
from trainables.storage.typed import checked


@dataclass(frozen=True, kw_only=True)
class NetLatency:
    """The latency of one net."""

    variant: str
    test_res: int  # px
    classes: int
    latency: Latency
    mirrors: bool = False  # it takes each image and its mirror image


@dataclass(frozen=True, kw_only=True)
class LatencyFile:
    """Latencies that were measured together."""

    conditions: Conditions
    measured: str  # when: UTC, ISO 8601
    nets: tuple[NetLatency, ...]


def write_latency_file(path: Path, content: LatencyFile) -> None:
    """Write the file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(to_jsonable(content), indent=2) + "\n", encoding="utf-8")


def read_latency_file(path: Path) -> LatencyFile:
    """Read the file.

    Raises:
        UserError: there is none, or it is no such file.
    """
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        return _from_json(written)
    except FileNotFoundError:
        raise UserError(
            f"`latency` {path} does not exist: write it with fixres-latency on the machine that "
            "serves."
        ) from None
    except Exception as error:  # of any type, as anything may stand there
        raise UserError(
            f"`latency` {path} is no file of fixres-latency ({type(error).__name__}: "
            f"{' '.join(str(error).split())}): measure again."
        ) from None


def _from_json(written: Mapping[str, Any]) -> LatencyFile:
    nets = [net | {"latency": checked(Latency(**net["latency"]))} for net in written["nets"]]
    return checked(
        LatencyFile(
            conditions=checked(Conditions(**written["conditions"])),
            measured=written["measured"],
            nets=tuple(checked(NetLatency(**net)) for net in nets),
        )
    )
