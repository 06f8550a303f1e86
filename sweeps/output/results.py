"""The files that a finished sweep hands over, and whether they are still what was written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from sweeps.output.location import CARD, EVIDENCE, FOLDERS
from trainables.storage.files import files_below


def result_digests(out: Path) -> dict[str, str]:
    """Hash leaderboard, tables, report, figures and the model's files, by their names in ``out``.

    The card is left out: that of an object store has links which the first one has not.
    """
    in_folders = [f"{folder}/{n}" for folder in FOLDERS for n in files_below(out / folder)]
    names = [*EVIDENCE, *in_folders]
    kept = [name for name in names if name != CARD and "__pycache__" not in name]
    return {name: _digest(out / name) for name in kept if (out / name).is_file()}


def damaged_results(out: Path, digests: Mapping[str, str]) -> list[str]:
    """List the files that are missing, or not what was written.

    Args:
        digests: those of :func:`result_digests`.
    """
    return [
        name
        for name, digest in digests.items()
        if not (out / name).is_file() or _digest(out / name) != digest
    ]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
