"""Run MLflow's server on a cluster's head, with runs that outlive the head.

    python tracking_server.py --artifacts s3://bucket/mlflow

It listens on this machine alone. Artifacts go to the object store. Runs are in a sqlite file in
``--folder``, which is copied to the object store every minute while it changes, and at the end; a
new head restores it from there. With MLFLOW_BACKEND_STORE_URI in the environment (Postgres, for
many sweeps at once) there is nothing to copy, and MLflow uses that.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from pyarrow import fs

EVERY_S = 60.0
NAME = "mlflow.db"


class Database:
    """The sqlite file of the runs, and its copy in the folder that the URI ``copies`` names."""

    def __init__(self, path: Path, copies: str):
        self.path = path
        self._copies = copies
        self._copied: tuple[int, ...] = ()

    def _remote(self) -> tuple[fs.FileSystem, str]:
        filesystem, folder = fs.FileSystem.from_uri(self._copies)
        return filesystem, f"{folder.rstrip('/')}/{NAME}"

    def restore(self) -> None:
        """Download the copy, if there is one and this machine has no file yet."""
        filesystem, copy = self._remote()
        if self.path.exists() or filesystem.get_file_info(copy).type != fs.FileType.File:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(".part")
        local = fs.LocalFileSystem()
        fs.copy_files(copy, str(aside), source_filesystem=filesystem, destination_filesystem=local)
        aside.replace(self.path)

    def _state(self) -> tuple[int, ...]:
        """Return times and sizes that change with every write, also of sqlite's write-ahead log."""
        files = (self.path, self.path.with_name(f"{NAME}-wal"))
        stats = [each.stat() for each in files if each.exists()]
        return tuple(number for stat in stats for number in (stat.st_mtime_ns, stat.st_size))

    def copy(self) -> bool:
        """Upload a consistent copy if anything was written since the last; return whether so."""
        state = self._state()
        if not state or state == self._copied:
            return False
        aside = self.path.with_suffix(".copy")
        with (
            contextlib.closing(sqlite3.connect(self.path)) as source,
            contextlib.closing(sqlite3.connect(aside)) as target,
        ):
            source.backup(target)
        filesystem, copy = self._remote()
        local = fs.LocalFileSystem()
        filesystem.create_dir(copy.rpartition("/")[0], recursive=True)
        fs.copy_files(str(aside), copy, source_filesystem=local, destination_filesystem=filesystem)
        self._copied = state
        return True


def server(artifacts: str, port: int, database: Path | None) -> subprocess.Popen[bytes]:
    """Start ``mlflow server`` with the MLflow of this Python environment."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--artifacts-destination", artifacts]
    if database is not None:
        command += ["--backend-store-uri", f"sqlite:///{database}"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return subprocess.Popen(command, env={**os.environ, **quiet})


def main(argv: Sequence[str]) -> int:
    """Run the server; return its exit code, or 0 if it was stopped by a signal."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artifacts", required=True, help="URI, for example s3://bucket/mlflow")
    parser.add_argument("--folder", type=Path, default=Path.home() / "mlflow")
    parser.add_argument("--port", type=int, default=5000)
    options = parser.parse_args(argv)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    if os.environ.get("MLFLOW_BACKEND_STORE_URI"):
        return watch(server(options.artifacts, options.port, None), None, stop)
    database = Database(options.folder.absolute() / NAME, options.artifacts)
    database.restore()
    database.path.parent.mkdir(parents=True, exist_ok=True)
    return watch(server(options.artifacts, options.port, database.path), database, stop)


def watch(
    served: subprocess.Popen[bytes],
    database: Database | None,
    stop: threading.Event,
    *,
    every_s: float = EVERY_S,
) -> int:
    """Copy the database while the server runs, and once more after its end."""

    def copy() -> None:
        try:
            if database is not None:
                database.copy()
        except (OSError, sqlite3.Error) as error:  # The next minute tries again.
            print(f"the runs could not be copied: {error}", file=sys.stderr, flush=True)

    while not stop.wait(every_s) and served.poll() is None:
        copy()
    stopped = stop.is_set()
    served.terminate()
    code = served.wait()
    copy()
    return 0 if stopped else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
