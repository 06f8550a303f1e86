"""Say that a stored file is damaged, and go on without one that can be made again."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from trainables.errors import SweepError
from trainables.storage.object_store import RemotePath
from trainables.storage.retry import first_line

T = TypeVar("T")
log = logging.getLogger("fixres")


class DamagedFileError(SweepError):
    """A stored file does not hold what was written there.

    Attributes:
        path: the file.
        what: names the file and what is wrong with it, without what to do.
    """

    def __init__(self, path: Path | RemotePath, why: str):
        self.path, self.why = path, why
        self.what = f"{path} is damaged ({why})"
        super().__init__(
            f"{self.what}: delete it, and choice.json where the sweep is finished, and the sweep's "
            "own command makes it again."
        )

    def __reduce__(self) -> tuple[type[DamagedFileError], tuple[Path | RemotePath, str]]:
        return DamagedFileError, (self.path, self.why)


@contextmanager
def damage_told(path: Path | RemotePath) -> Iterator[None]:
    """Turn what a library raises for content that it cannot read into a DamagedFileError.

    Errors of the file system, such as a missing file, stay as they are.
    """
    try:
        yield
    except (SweepError, MemoryError):
        raise
    except Exception as error:  # each library has its own, and some raise many types
        # A library's OSError without a number is about the content, as is a seek to before it.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise DamagedFileError(path, first_line(error)) from None


def unless_damaged(read: Callable[[], T | None]) -> T | None:
    """Read a file that can be made again: None where it is damaged, which a warning tells."""
    try:
        return read()
    except DamagedFileError as error:
        log.warning("%s: it is made again", error.what)
        return None
