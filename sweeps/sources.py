"""Where a choice is made from: a sweep's folder, a copy of it in an object store, or MLflow.

Whatever it is, what the choice needs comes to lie in a local folder in a sweep's own layout.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from sweeps.from_mlflow import bring_runs
from trainables.cell import PREDICTIONS
from trainables.errors import UserError

BOARD, SPEC = "leaderboard.parquet", "spec.json"


@contextmanager
def brought(sweep: str, tracking_uri: str | None) -> Iterator[Path]:
    """The folder of a sweep, or a temporary one with what a choice needs of it.

    Args:
        sweep: a folder; a URI that pyarrow knows (s3://bucket/prefix, gs://..., file:///...); or
            runs:/ID, the id of a sweep's parent run in MLflow.
        tracking_uri: of MLflow; None: what MLflow itself would take.

    Raises:
        UserError: there is no such sweep, or no cell of it is done.
    """
    if "://" not in sweep and not sweep.startswith("runs:/"):
        folder = Path(sweep).expanduser()
        _check(folder, sweep)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="fixres-choice-") as name:
        folder = Path(name)
        if sweep.startswith("runs:/"):
            bring_runs(sweep.removeprefix("runs:/"), tracking_uri, folder)
        else:
            _bring_objects(sweep, folder)
        _check(folder, sweep)
        yield folder


def _check(folder: Path, sweep: str) -> None:
    if not ((folder / BOARD).exists() and (folder / SPEC).exists()):
        raise UserError(
            f"--sweep {sweep} holds no leaderboard yet: name a sweep's folder, its URI in an "
            "object store or runs:/ID in MLflow, or wait for its first cell."
        )


def _bring_objects(uri: str, folder: Path) -> None:
    try:
        remote, base = fs.FileSystem.from_uri(uri.rstrip("/"))
        names = [name for name in (BOARD, SPEC) if _is_file(remote, f"{base}/{name}")]
        cells = fs.FileSelector(f"{base}/store/cells", recursive=True, allow_not_found=True)
        found = (info.path for info in remote.get_file_info(cells))
        names += [p.removeprefix(f"{base}/") for p in found if p.endswith(f"/{PREDICTIONS}")]
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            fs.copy_files(
                f"{base}/{name}",
                str(folder / name),
                source_filesystem=remote,
                destination_filesystem=fs.LocalFileSystem(),
            )
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"--sweep {uri} cannot be read ({reason}): check the address and your credentials."
        ) from None


def _is_file(remote: fs.FileSystem, path: str) -> bool:
    return bool(remote.get_file_info(path).type == fs.FileType.File)
