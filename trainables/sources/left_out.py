"""Tell images from what file managers, photo programs, drives and archives leave among them."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from trainables.errors import printable

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".heic", ".heif"),
)
# Names of files and folders, in any case; * at an end stands for anything.
LEFTOVERS = (
    # macOS, also in archives that it packed and on shares that it visited
    *("__MACOSX", "._*", ".AppleDouble", ".AppleDesktop", ".Trashes", ".TemporaryItems", "Icon\r"),
    *("Temporary Items", "Network Trash Folder", ".fseventsd", ".Spotlight-V100"),
    # Windows
    *("Thumbs.db", "Thumbs.db:*", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
    *("$RECYCLE.BIN", "System Volume Information", "FOUND.000", "*:Zone.Identifier"),
    # Linux, its desktops, notebooks and Android
    *("lost+found", ".Trash", ".Trash-*", ".thumbnails", ".thumbs", ".xvpics", ".comments"),
    *("LOST.DIR", ".trashed-*", ".ipynb_checkpoints", "__pycache__"),
    # network drives: Synology, QNAP, Samba
    *("@eaDir", "@tmp", "#recycle", "#snapshot", "*@SynoEAStream", "*@SynoResource"),
    *("SYNOPHOTO_THUMB_*", "SYNOFILE_THUMB_*", "@Recycle", "@Recently-Snapshot"),
    *("@__thumb", ".@__thumb", ".recycle", ".snapshot", ".snapshots"),
    # photo programs: Picasa, digiKam, Lightroom, Capture One, XnView, ZoomBrowser, Paint Shop
    *("Picasa.ini", ".picasa.ini", ".picasaoriginals", ".dtrash", "*.lrdata", "CaptureOne"),
    *("XnView.db", "ZbThumbnail.info", "pspbrwse.jbf", "iPod Photo Cache"),
    *("_thumbs", "__thumbs", "_thumbnails", "__thumbnails"),
    # servers
    *("_vti_cnf", "_vti_pvt"),
)
MAX_ENTRIES_SEEN = 2000  # of a hidden folder, in the search for an image
MAX_HIDDEN_NAMED = 5  # in a note

_WHOLE = {name.lower(): name for name in LEFTOVERS if "*" not in name}
_STARTS = {name[:-1].lower(): name for name in LEFTOVERS if name.endswith("*")}
_ENDS = {name[1:].lower(): name for name in LEFTOVERS if name.startswith("*")}


def leftover_name(name: str) -> str | None:
    """The entry of ``LEFTOVERS`` that a file's or folder's name fits; None: it fits none."""
    lower = name.lower()
    if lower in _WHOLE:
        return _WHOLE[lower]
    if lower.startswith(tuple(_STARTS)):
        return next(entry for start, entry in _STARTS.items() if lower.startswith(start))
    if lower.endswith(tuple(_ENDS)):
        return next(entry for end, entry in _ENDS.items() if lower.endswith(end))
    return None


def is_left_out(name: str) -> bool:
    """Whether a file or folder of that name is not looked into: hidden, or a leftover."""
    return name.startswith(".") or leftover_name(name) is not None


def is_image_name(path: str) -> bool:
    """Whether a file is an image by its name."""
    return path.lower().endswith(IMAGE_SUFFIXES)


def holds_image(folder: Path) -> bool:
    """Whether a hidden folder holds an image, as far as its first entries show."""
    seen = 0
    for _, _, names in os.walk(folder):
        seen += 1 + len(names)
        if any(map(is_image_name, names)):
            return True
        if seen > MAX_ENTRIES_SEEN:
            return False
    return False


def left_out_notes(paths: Iterable[str]) -> list[str]:
    """Write sentences on what a listing left out, leftovers apart from what is merely hidden.

    Args:
        paths: relative; those of folders end with "/".
    """
    leftovers: Counter[tuple[str, str]] = Counter()
    hidden = []
    for path in map(printable, paths):
        name = path.rstrip("/").rpartition("/")[2]
        leftover = leftover_name(name)
        if leftover is None:
            hidden.append(path)
        else:
            shown = leftover if "*" in leftover else name
            leftovers[shown.strip(), "folder" if path.endswith("/") else "file"] += 1
    notes = []
    if leftovers:
        told = (f"{name} ({n} {kind}{'s' * (n > 1)})" for (name, kind), n in leftovers.items())
        notes.append(
            "Left out, as file managers, photo programs, drives and archives leave such among"
            f" images: {', '.join(told)}."
        )
    if hidden:
        more = f" and {len(hidden) - MAX_HIDDEN_NAMED} more" * (len(hidden) > MAX_HIDDEN_NAMED)
        notes.append(
            f"Left out, as names with a dot in front are hidden, though there are images:"
            f" {', '.join(hidden[:MAX_HIDDEN_NAMED])}{more}: rename what belongs to the data."
        )
    return notes
