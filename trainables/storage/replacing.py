"""Replace a file or a folder whole or not at all; imports nothing heavy."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``, and rename it onto that when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp's 0600 would lock other users out of a shared store
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside ``path``, and rename it to that when the block ends well.

    What was at ``path`` is deleted then, or stays as it was where the block fails. The files become
    readable by every user: the folder is to be handed over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    former = fresh.with_name(f"{fresh.name}.old")
    try:
        yield fresh
        for entry in [fresh, *fresh.rglob("*")]:
            entry.chmod(0o755 if entry.is_dir() else 0o644)
        if path.exists():
            path.rename(former)
        fresh.rename(path)
    finally:
        if former.exists() and not path.exists():  # interrupted between the two
            former.rename(path)
        shutil.rmtree(former, ignore_errors=True)
        shutil.rmtree(fresh, ignore_errors=True)
