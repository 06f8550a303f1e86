"""Read the plain values of a stored state, and of its tensors not a byte.

A state (:func:`.files.write_state`) is what ``torch.save`` writes: a zip archive that has a small
pickle, ``data.pkl``, beside the numbers of each tensor. Of a net of gigabytes the pickle takes some
hundred kilobytes. It is read by an unpickler that knows no class and calls no function of anybody:
what is no plain value comes out as a :class:`Stub`.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import IO, Any

from trainables.storage.damage import damage_told
from trainables.storage.object_store import RemotePath

PLAIN_PART = "/data.pkl"  # ends the name of the pickle in the archive


class Stub(dict[Any, Any]):
    """Stands for an object that is not read; holds the items that it was given, if it is a mapping.

    A state dict is one.
    """

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        """Leave the object's attributes out."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        return Stub

    def persistent_load(self, pid: object, /) -> None:
        """Leave out the storage of a tensor."""


def read_values(path: Path | RemotePath) -> dict[str, Any] | None:
    """Read the state at ``path`` without its tensors; None where there is no such file.

    Of a remote object only the parts that are needed are fetched. What the tensors hold is not
    checked: :func:`.files.read_state` does.

    Raises:
        DamagedFileError: it is cut short, or its values are not what was written.
    """
    with damage_told(path):
        try:
            if isinstance(path, RemotePath):
                plain = path.read_parts(_plain_part)
            else:
                with path.open("rb") as file:
                    plain = _plain_part(file)
        except FileNotFoundError:
            return None
        if isinstance(plain, Exception):
            raise plain
        values = _PlainUnpickler(io.BytesIO(plain)).load()
        if not isinstance(values, dict):
            raise ValueError("it is no state")
        return values


def _plain_part(file: IO[bytes]) -> bytes | Exception:
    """Read the pickle, by its checksum, or give what a broken archive raises: no store's error."""
    try:
        with zipfile.ZipFile(file) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith(PLAIN_PART))
            return archive.read(name)
    except OSError:
        raise
    except Exception as error:  # of many types, as any bytes may stand there
        return error
