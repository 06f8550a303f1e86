"""What a data folder holds, by name only: here, or below a prefix in an object store."""

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
    """A file below the data folder; size and mtime are -1 for what is no readable file."""

    path: str  # relative, with "/"
    size: int  # bytes
    mtime_ns: int


class StoredFile(NamedTuple):
    """A file in an object store."""

    place: RemotePath
    size: int  # bytes, when it was listed


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a data folder (or one table file) holds, by name only, hidden entries left out."""

    root: Path | RemotePath
    files: tuple[FileEntry, ...]
    folders: tuple[str, ...]

    def digest(self, *settings: object) -> str:
        """Name this listing and the settings that its images are read with: 64 hex digits.

        The root is part of it: copies may agree in names, sizes and times and differ in content.
        """
        root = self.root.uri if isinstance(self.root, RemotePath) else str(self.root)
        told = hashlib.sha256(json.dumps([root, self.folders, settings]).encode())
        for entry in self.files:
            told.update(f"{entry.path!r} {entry.size} {entry.mtime_ns}\n".encode())
        return told.hexdigest()


def single_file(data: Path | RemotePath, size: int, mtime_ns: int) -> Listing:
    """List one file.

    Raises:
        UserError: it is no table.
    """
    if not data.name.lower().endswith(TABLE_SUFFIXES):
        raise UserError(
            f"{data} is a single file: give a folder of images, or a .parquet or .arrow file."
        )
    only = FileEntry(data.name, size, mtime_ns)
    return Listing(root=data.parent, files=(only,), folders=())


def located(listing: Listing, entry: FileEntry) -> Path | StoredFile:
    """Where a file of the listing is."""
    root = listing.root
    if isinstance(root, RemotePath):
        return StoredFile(root / entry.path, entry.size)
    return root / entry.path
