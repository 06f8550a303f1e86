"""Remember what MLflow lacks of a sweep, in the sweep's store, so that a later command sends it."""

from __future__ import annotations

from contextlib import suppress

from trainables.errors import SweepError
from trainables.storage.artifact_store import Store
from trainables.storage.damage import DamagedFileError
from trainables.storage.files import Place, read_json, write_json

FILE = "tracking.json"


def shortfall_path(store: Store) -> Place:
    """Return the path of the file; it is there while MLflow lacks something of the sweep."""
    return store.root / FILE


class Shortfall:
    """Knows the runs of a sweep to which something was refused, by their keys.

    Args:
        path: of the file that holds them from one process to the next.
    """

    def __init__(self, path: Place):
        self._path = path
        self._is_closing = False
        self._refused: set[str] = set()  # in this process, since the last of forgive()
        self._resent: set[str] = set()  # refused before: what is for them is written anew
        self._is_everything_resent = False
        try:
            written = read_json(path)
            if written is not None:
                self._resent = {str(key) for key in written["runs"]}
        except (DamagedFileError, KeyError, TypeError):
            self._is_everything_resent = True  # A damaged file does not say what is lacking.

    def __contains__(self, key: object) -> bool:
        """Say whether the run may lack something, though it has ended."""
        return self._is_everything_resent or key in self._refused or key in self._resent

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been refused in this process that was not taken later."""
        return not self._refused

    def note(self, key: str) -> None:
        """Note that something for the run was refused."""
        if key not in self._refused:
            self._refused.add(key)
            self._write()

    def forgive(self) -> None:
        """Take what was refused so far as being sent again."""
        self._resent |= self._refused
        self._refused.clear()

    def begin_closing(self) -> None:
        """Note that everything has been handed over, and that MLflow may not have it yet."""
        self._is_closing = True
        self._write()

    def settle(self) -> None:
        """Note that MLflow has everything but what was refused in this process.

        Without :meth:`begin_closing` it is not known what else it lacks, and nothing is changed.
        """
        if not self._is_closing:
            return
        self._resent.clear()
        self._is_everything_resent = False
        if self._refused:
            self._write()
        elif self._path.exists():
            self._path.unlink()

    def _write(self) -> None:
        # Where it cannot be written, the store has worse to tell, and does.
        with suppress(OSError, SweepError):
            write_json(self._path, {"runs": sorted(self._refused | self._resent)})
