"""The record of a sweep in spec.json: all that is needed to recognise it, and to run it again."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sweeps.planning.spec import SweepSpec, differences, spec_from_json
from sweeps.redaction import redacted, redacted_values
from trainables.storage.files import Place, read_record, write_json
from trainables.storage.hashing import to_jsonable
from trainables.storage.typed import checked

SPEC = "spec.json"
PACKAGES = (
    *("ray", "torch", "torchvision", "timm", "mlflow", "optuna", "onnx", "onnxruntime"),
    *("pillow", "numpy"),
)


@dataclass(frozen=True, kw_only=True)
class Extension:
    """A later command that continued a sweep with more, or with less, than it was over before."""

    command: tuple[str, ...]
    at: str
    """Time at which it was taken: UTC, ISO 8601."""
    changed: tuple[str, ...]
    """What differs from the command before, in words."""
    versions: Mapping[str, str]
    """Versions of the packages that what is new depends on, by name."""


@dataclass(frozen=True, kw_only=True)
class SweepRecord:
    """A sweep: as its first command began it, and as its last one continues it."""

    sweep: str
    """The id of the sweep: a tag of all its runs in MLflow."""
    command: tuple[str, ...]
    """The first one."""
    identity: Mapping[str, Any]
    """The options that decide what comes out, and the digest of the images, by name; as those of
    ``spec``, the last command's."""
    storage: str | None
    """The URI of its object store; None: all is in its folder."""
    spec: SweepSpec
    classes: tuple[str, ...]
    versions: Mapping[str, str]
    """Versions of the packages that results depend on, by name."""
    began: str
    """Time at which it began: UTC, ISO 8601."""
    ui: str | None = None
    """The command or address that opens its runs in MLflow."""
    extensions: tuple[Extension, ...] = ()
    """The commands that changed what it is over, in their order."""

    @property
    def last_command(self) -> tuple[str, ...]:
        """The command that it is as now by."""
        return self.extensions[-1].command if self.extensions else self.command

    def is_changed_by(self, identity: Mapping[str, Any]) -> bool:
        """Whether a command that asks for a sweep of this identity changes what it is over."""
        return bool(differences(self.identity, identity))

    def write(self, folder: Path) -> None:
        """Write spec.json into the folder, without secrets."""
        written = redacted_values(to_jsonable(self))
        if self.ui is None:
            del written["ui"]
        if not self.extensions:
            del written["extensions"]
        write_json(folder / SPEC, written)


def read_sweep_record(folder: Place) -> SweepRecord | None:
    """Read spec.json of a folder, of this version or an earlier one; None: there is none.

    Raises:
        DamagedFileError: it is no record of a sweep.
    """
    return read_record(folder / SPEC, _record_from_json)


def _record_from_json(written: dict[str, Any]) -> SweepRecord:
    """Read a record from its JSON; raises anything for what is none."""
    values: dict[str, Any] = {f.name: written.get(f.name) for f in fields(SweepRecord)}
    values["spec"] = spec_from_json(written["spec"])
    for name in ("command", "classes"):
        values[name] = tuple(values[name])
    values["extensions"] = tuple(map(_extension_from_json, values["extensions"] or ()))
    return checked(SweepRecord(**values))


def _extension_from_json(written: dict[str, Any]) -> Extension:
    values = {**written, **{name: tuple(written[name]) for name in ("command", "changed")}}
    return checked(Extension(**values))


def new_sweep_record(
    spec: SweepSpec, identity: Mapping[str, Any], storage: str | None, classes: tuple[str, ...]
) -> SweepRecord:
    """Make the record of a sweep that this process begins, with its command line but no secret.

    Args:
        identity: see :func:`sweeps.planning.spec.identity`.
        storage: the URI of its object store, if it has one.
        classes: names of the classes, in the order of the classifier.
    """
    return SweepRecord(
        sweep=uuid.uuid4().hex[:12],
        command=_command_line(),
        identity=identity,
        storage=storage,
        spec=_without_secrets(spec),
        classes=classes,
        versions=_versions(),
        began=_now(),
    )


def extended_record(
    record: SweepRecord, spec: SweepSpec, identity: Mapping[str, Any]
) -> SweepRecord:
    """Make the record of a sweep that this command continues; as it was, where it changes nothing.

    Args:
        identity: that of ``spec``; it differs from the record's in nothing that is finished.
    """
    changed = tuple(differences(record.identity, identity))
    if not changed:
        return record
    extension = Extension(command=_command_line(), at=_now(), changed=changed, versions=_versions())
    return replace(
        record,
        identity=identity,
        spec=_without_secrets(spec),
        extensions=(*record.extensions, extension),
    )


def _command_line() -> tuple[str, ...]:
    return ("python", "sweeps/fixres_grid.py", *map(redacted, sys.argv[1:]))


def _without_secrets(spec: SweepSpec) -> SweepSpec:
    return spec_from_json(redacted_values(to_jsonable(spec)))


def _versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES}


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
