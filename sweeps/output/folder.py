"""OUT, the folder of a sweep: find it, lock it, and check which sweep it holds."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sweeps.environment import on_cluster
from sweeps.output.location import (
    BOARD,
    CHOICE,
    FILES,
    FOLDERS,
    NEAR_DUPLICATES,
    REJECTED,
    STATUS,
    SweepLocation,
    location_of,
)
from sweeps.output.sweep_record import SPEC, SweepRecord, extended_record, read_sweep_record
from sweeps.planning.spec import SweepSpec, binding_differences, differences
from trainables.data.image_set import ImageSet
from trainables.errors import UserError
from trainables.near_duplicates.pairs import NearDuplicates
from trainables.storage.damage import DamagedFileError, unless_damaged
from trainables.storage.fenced_log import has_lines
from trainables.storage.files import write_text

DAMAGED_SPEC = f"{SPEC}.damaged"
# What may lie in a sweep's folder, beside its store.
SWEEP_NAMES = frozenset((SPEC, DAMAGED_SPEC, CHOICE, STATUS, *FILES, *FOLDERS, "mlartifacts")) | {
    f"mlflow.db{suffix}" for suffix in ("", "-journal", "-wal", "-shm")
}
log = logging.getLogger("fixres")


def find_folder(spec: SweepSpec) -> Path:
    """Resolve the folder of a sweep to an absolute path.

    Raises:
        UserError: it is a file, holds other files, or would be lost with a cluster's job.
    """
    out = spec.output.out.expanduser()
    kept_elsewhere = spec.output.storage and (
        spec.tracking.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    )
    if on_cluster() and not (out.is_absolute() or kept_elsewhere):
        raise UserError(
            f"--out {out} lies in the job's working copy, which is thrown away: give an absolute "
            "path that every node sees, or --storage and --tracking-uri."
        )
    out = out.resolve()
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: name a folder.")
    names = {p.name for p in out.iterdir() if p.name[0] != "."} if out.is_dir() else set()
    others = sorted(names - {"store"})  # A sweep that was killed at once leaves a bare store.
    if others and SPEC not in others and not _has_lost_its_record(spec, out, others):
        raise UserError(
            f"--out {out} holds other files ({others[0]}, ...): name a new or an empty folder."
        )
    return out


def _has_lost_its_record(spec: SweepSpec, out: Path, names: Sequence[str]) -> bool:
    """Whether a folder without spec.json holds a sweep all the same: its store shows it."""
    if not set(names) <= SWEEP_NAMES:
        return False
    return spec.output.storage is not None or has_lines(location_of(out, None).store.journal)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the lock of the folder while the block runs: one driver at a time.

    Raises:
        UserError: another driver holds it.
    """
    lock = FileLock(out / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"--out {out} is in use by another running sweep: wait for it.") from None
    try:
        yield
    finally:
        lock.release()


def is_in_use(out: Path) -> bool:
    """Whether a driver holds the lock of the folder."""
    if not (out / ".lock").exists():
        return False
    try:
        with locked(out):
            return False
    except (UserError, OSError):
        return True


def remove_unfinished(out: Path, is_new: bool) -> None:
    """Remove what a sweep that was refused has written so far.

    Args:
        is_new: this sweep made the folder; otherwise only its own files go.
    """
    if is_new:
        shutil.rmtree(out)
        return
    # A bare store stays: it may have been there before, and the next sweep takes it up.
    for name in (SPEC, REJECTED, NEAR_DUPLICATES):
        (out / name).unlink(missing_ok=True)


def read_matching_record(out: Path, identity: Mapping[str, Any]) -> SweepRecord | None:
    """Read the record of the sweep in ``out``; None: there is none, or it is damaged.

    Of a damaged one a copy is kept, as it is written anew: results are found by their own keys. The
    sweep that is to run may be over more than the recorded one, or over less.

    Args:
        identity: that of the sweep which is to run, see :func:`sweeps.planning.spec.identity`.

    Raises:
        UserError: the folder holds another sweep: what is finished would come out otherwise.
    """
    try:
        record = read_sweep_record(out)
    except DamagedFileError as error:
        shutil.copyfile(out / SPEC, out / DAMAGED_SPEC)
        log.warning(
            "%s: it is written anew from the options of this command, with a new run in MLflow; "
            "%s is a copy",
            error.what, DAMAGED_SPEC,
        )  # fmt: skip
        return None
    if record is None and any((out / name).exists() for name in (CHOICE, BOARD)):
        log.warning(
            "%s is missing: it is written anew from the options of this command, with a new run "
            "in MLflow",
            out / SPEC,
        )
    if record is not None:
        _check_same_sweep(out, record, identity)
    return record


def _check_same_sweep(out: Path, record: SweepRecord, identity: Mapping[str, Any]) -> None:
    differing = binding_differences(record.identity, identity)
    if differing:
        raise UserError(
            f"--out {out} holds another sweep ({'; '.join(differing)}): give the same options to "
            "continue it, or another --out."
        )


def check_extension(
    out: Path, identity: Mapping[str, Any], say: Callable[[str], None]
) -> SweepRecord | None:
    """Check whether a sweep may run in ``out``, and say what it would change there; writes nothing.

    Returns:
        The record of the sweep there; None: there is none, or it is damaged.

    Raises:
        UserError: the folder holds another sweep.
    """
    record = unless_damaged(lambda: read_sweep_record(out))
    if record is not None:
        _check_same_sweep(out, record, identity)
        _say_changes(out, differences(record.identity, identity), say)
    return record


def _say_changes(out: Path, changed: Sequence[str], say: Callable[[str], None]) -> None:
    if changed:
        say(f"extends  the sweep in {out}: {'; '.join(changed)}")


def continue_record(
    record: SweepRecord,
    spec: SweepSpec,
    identity: Mapping[str, Any],
    location: SweepLocation,
    say: Callable[[str], None],
) -> SweepRecord:
    """Record and say what this command changes of what the sweep is over; often it is nothing.

    Args:
        record: of the sweep as the command before this one left it.
        identity: that of ``spec``.

    Raises:
        ReplacedError: another driver has taken over.
    """
    extended = extended_record(record, spec, identity)
    if extended is not record:
        _say_changes(location.out, extended.extensions[-1].changed, say)
        location.driver.check()
        location.store.forecast.unlink(missing_ok=True)  # it is of what the sweep was over before
        extended.write(location.out)
        location.publish(SPEC)
    return extended


def write_rejected(out: Path, images: ImageSet) -> None:
    """List the files that could not be read in rejected.tsv, if there are any."""
    if images.rejected:
        lines = [f"{r.path}\t{r.reason}\n" for r in images.rejected]
        write_text(out / REJECTED, "path\treason\n" + "".join(lines))


def write_near_duplicates(out: Path, found: NearDuplicates) -> None:
    """List the near-duplicates in near_duplicates.tsv; without any there is no such file."""
    if found.pairs:
        write_text(out / NEAR_DUPLICATES, found.table)
    else:
        (out / NEAR_DUPLICATES).unlink(missing_ok=True)
