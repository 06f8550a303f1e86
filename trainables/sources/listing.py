"""List what a data folder or a prefix in an object store holds, by names and sizes only."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from trainables.errors import UserError
from trainables.storage.object_store import RemotePath

MAX_FILE_BYTES = 2**30  # a larger file is a video or an archive, not a labelled image
TABLE_SUFFIXES = (".parquet", ".arrow")


class FileEntry(NamedTuple):
    """A file below the data folder; size and times are -1 where it is no readable file."""

    path: str  # relative, with "/"
    size: int  # bytes
    mtime_ns: int
    # Of its last change, which nobody can set: other content under the same size and mtime is
    # known by it. A store has none, and sets mtime itself.
    ctime_ns: int = -1


class StoredFile(NamedTuple):
    """A file in an object store."""

    path: RemotePath
    size: int  # bytes, when it was listed


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files and folders below a data folder, or one table file.

    Hidden entries and leftovers (:mod:`trainables.sources.left_out`) are not among them.
    """

    root: Path | RemotePath
    files: tuple[FileEntry, ...]
    folders: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    """Paths that are worth a word; those of folders end with "/"."""

    def digest(self, *settings: object) -> str:
        """Name this listing and the settings that its images are read with: 64 hex digits.

        The root is part of it: copies may agree in names, sizes and times and differ in content.
        """
        root = self.root.uri if isinstance(self.root, RemotePath) else str(self.root)
        sha = hashlib.sha256(json.dumps([root, self.folders, self.left_out, settings]).encode())
        for entry in self.files:
            line = f"{entry.path!r} {entry.size} {entry.mtime_ns} {entry.ctime_ns}\n"
            sha.update(line.encode())
        return sha.hexdigest()

    def locate(self, entry: FileEntry) -> Path | StoredFile:
        """Say where a file of the listing is to be read."""
        if isinstance(self.root, RemotePath):
            return StoredFile(self.root / entry.path, entry.size)
        return self.root / entry.path


def single_file(data: Path | RemotePath, size: int, mtime_ns: int, ctime_ns: int = -1) -> Listing:
    """List one file.

    Raises:
        UserError: it is no table.
    """
    if not data.name.lower().endswith(TABLE_SUFFIXES):
        raise UserError(
            f"{data} is a single file: give a folder of images, or a .parquet or .arrow file."
        )
    only = FileEntry(data.name, size, mtime_ns, ctime_ns)
    return Listing(root=data.parent, files=(only,), folders=())
