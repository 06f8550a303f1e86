"""Where a choice is made from: a sweep's folder, its place in an object store, or MLflow.

Whatever it is, its leaderboard and spec come to lie in a local folder in a sweep's own layout.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.output.location import BOARD, SPEC, recorded_store
from sweeps.tracking.download import bring_runs
from trainables.errors import UserError
from trainables.storage.artifact_store import Store
from trainables.storage.files import read_json
from trainables.storage.object_store import is_uri, remote_path
from trainables.storage.retry import first_line


@dataclass(frozen=True, kw_only=True)
class Found:
    """A sweep to choose from."""

    folder: Path
    record: dict[str, Any]  # what its spec.json says
    store: Store


@contextmanager
def brought(sweep: str, tracking_uri: str | None) -> Iterator[Found]:
    """A sweep, its leaderboard and spec in its folder or in a temporary one.

    Args:
        sweep: a folder; a URI that pyarrow knows (s3://bucket/prefix, gs://...); or runs:/ID, the
            id of a sweep's parent run in MLflow.
        tracking_uri: of MLflow; None: what MLflow itself would take.

    Raises:
        UserError: there is no such sweep, or no cell of it is done.
    """
    if not (is_uri(sweep) or sweep.startswith("runs:/")):
        folder = Path(sweep).expanduser()
        record = _record(folder, sweep)
        yield Found(folder=folder, record=record, store=recorded_store(folder, record))
        return
    with tempfile.TemporaryDirectory(prefix="fixres-choice-") as name:
        folder = Path(name)
        store: Store = Store(folder / "store")
        if sweep.startswith("runs:/"):
            bring_runs(sweep.removeprefix("runs:/"), tracking_uri, folder)
        else:
            store = _bring_objects(sweep, folder)
        yield Found(folder=folder, record=_record(folder, sweep), store=store)


def _record(folder: Path, sweep: str) -> dict[str, Any]:
    record: dict[str, Any] | None = read_json(folder / SPEC)
    if record is None or not (folder / BOARD).exists():
        raise UserError(
            f"--sweep {sweep} holds no leaderboard yet: name a sweep's folder, its URI in an "
            "object store or runs:/ID in MLflow, or wait for its first cell."
        )
    return record


def _bring_objects(uri: str, folder: Path) -> Store:
    remote = remote_path(uri)
    try:
        remote.reach()
        for name in (SPEC, BOARD):
            if (remote / name).exists():
                (remote / name).bring(folder / name)
    except OSError as error:
        raise UserError(
            f"--sweep {uri} cannot be read ({first_line(error)}): check the address and your "
            "credentials."
        ) from None
    return Store(remote / "store")
