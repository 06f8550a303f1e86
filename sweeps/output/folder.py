"""OUT, the folder of a sweep: whose it is, who is at work in it, what it is a record of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sweeps.environment import on_cluster
from sweeps.output.sweep_record import SPEC, SweepRecord, read_sweep_record
from sweeps.planning.spec import SweepSpec, differences
from trainables.data.image_set import ImageSet
from trainables.errors import UserError
from trainables.storage.files import write_text


def find_folder(spec: SweepSpec) -> Path:
    """Where the sweep lives, by an absolute path.

    Raises:
        UserError: it may not live there.
    """
    out = spec.output.out.expanduser()
    kept = spec.output.storage and (
        spec.tracking.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    )
    if on_cluster() and not (out.is_absolute() or kept):
        raise UserError(
            f"--out {out} lies in the job's working copy, which is thrown away: give an absolute "
            "path that every node sees, or --storage and --tracking-uri."
        )
    out = out.resolve()
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: name a folder.")
    names = {p.name for p in out.iterdir() if p.name[0] != "."} if out.is_dir() else set()
    strangers = sorted(names - {"store"})  # a sweep that was killed at once leaves a bare store
    if strangers and SPEC not in strangers:
        raise UserError(
            f"--out {out} holds other files ({strangers[0]}, ...): name a new or an empty folder."
        )
    return out


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """One driver at a time."""
    lock = FileLock(out / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"--out {out} is in use by another running sweep: wait for it.") from None
    try:
        yield
    finally:
        lock.release()


def remove_unfinished(out: Path, made_anew: bool) -> None:
    """Leave nothing half-written behind a refusal."""
    if made_anew:
        shutil.rmtree(out)
        return
    # A bare store stays: it may have been there, and the next sweep takes it up.
    for name in (SPEC, "rejected.tsv"):
        (out / name).unlink(missing_ok=True)


def read_record_of(out: Path, asked: Mapping[str, Any]) -> SweepRecord | None:
    """Read the record of the sweep in ``out``, if there is one, and it is the same sweep.

    Args:
        asked: the identity of the sweep that is asked for.

    Raises:
        UserError: the folder holds another sweep.
    """
    record = read_sweep_record(out)
    differing = differences(record.identity, asked) if record else []
    if differing:
        raise UserError(
            f"--out {out} holds another sweep ({'; '.join(differing)}): give the same options to "
            "continue it, or another --out."
        )
    return record


def write_rejected(out: Path, images: ImageSet) -> None:
    if images.rejected:
        lines = [f"{r.path}\t{r.reason}\n" for r in images.rejected]
        write_text(out / "rejected.tsv", "path\treason\n" + "".join(lines))
