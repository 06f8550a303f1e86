"""tracking_server.py with a folder in place of the object store; once with MLflow itself."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from clusters import tracking_server
from clusters.tracking_server import NAME, Database
from tests.clusters.files import CLUSTERS
from tests.ports import free_ports
from tests.waiting import HANG_S, wait_until


def write(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("create table if not exists runs (value)")
        db.execute("insert into runs values (?)", (value,))


def values(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as db:
        return [value for (value,) in db.execute("select value from runs")]


@pytest.fixture
def bucket(tmp_path) -> Path:
    return tmp_path / "bucket" / "mlflow"


def database(folder: Path, bucket: Path) -> Database:
    return Database(folder / NAME, bucket.as_uri())


def test_a_new_head_takes_up_the_runs_of_the_last(tmp_path, bucket):
    first = database(tmp_path / "head1", bucket)
    first.restore()
    assert not first.path.exists()
    write(first.path, 1)
    assert first.copy()
    second = database(tmp_path / "head2", bucket)
    second.restore()
    assert values(second.path) == [1]
    assert [path.name for path in second.path.parent.iterdir()] == [NAME]


def test_runs_that_are_here_are_not_overwritten(tmp_path, bucket):
    old = database(tmp_path / "head1", bucket)
    write(old.path, 1)
    old.copy()
    write(old.path, 2)
    old.restore()
    assert values(old.path) == [1, 2]


def test_it_copies_after_writes_alone(tmp_path, bucket):
    here = database(tmp_path / "head", bucket)
    assert not here.copy()  # nothing there yet
    write(here.path, 1)
    assert [here.copy(), here.copy()] == [True, False]
    write(here.path, 2)
    assert here.copy()
    assert values(bucket / NAME) == [1, 2]


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_copy_is_whole_while_another_writes(tmp_path, bucket, mode):
    here = database(tmp_path / "head", bucket)
    write(here.path, 1)
    with closing(sqlite3.connect(here.path)) as db:
        db.execute(f"pragma journal_mode={mode}")
        db.execute("insert into runs values (2)")
        db.commit()
        db.execute("insert into runs values (3)")  # not committed
        assert here.copy()
        assert values(bucket / NAME) == [1, 2]
        db.commit()
    assert here.copy()
    assert values(bucket / NAME) == [1, 2, 3]


def sleeper() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["sleep", "60"])


def test_the_last_writes_are_copied_when_it_is_told_to_stop(tmp_path, bucket):
    here = database(tmp_path / "head", bucket)
    write(here.path, 1)
    stop = threading.Event()
    stop.set()
    served = sleeper()
    assert tracking_server.watch(served, here, stop) == 0
    assert served.poll() is not None
    assert values(bucket / NAME) == [1]


def test_it_ends_with_a_server_that_ends(tmp_path, bucket):
    here = database(tmp_path / "head", bucket)
    write(here.path, 1)
    served = subprocess.Popen(["bash", "-c", "exit 3"])
    assert tracking_server.watch(served, here, threading.Event(), every_s=0.01) == 3
    assert values(bucket / NAME) == [1]


def test_a_store_that_fails_ends_nothing(tmp_path, bucket, capsys):
    bucket.parent.mkdir()
    bucket.write_text("a file in place of the folder")
    here = database(tmp_path / "head", bucket)
    write(here.path, 1)
    served, stop = sleeper(), threading.Event()
    threading.Timer(0.3, stop.set).start()
    assert tracking_server.watch(served, here, stop, every_s=0.1) == 0
    assert capsys.readouterr().err.count("could not be copied") >= 2


@pytest.mark.slow
def test_mlflow_itself_is_served_and_ends_with_its_runs_in_the_store(tmp_path, bucket):
    import mlflow

    (port,) = free_ports(1)
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_BACKEND_STORE_URI"}
    command = [sys.executable, str(CLUSTERS / "tracking_server.py"), "--port", str(port)]
    command += ["--artifacts", bucket.as_uri(), "--folder", str(tmp_path / "head")]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_until(lambda: listens(port), process=server, what="the server's answer")
            mlflow.MlflowClient(f"http://127.0.0.1:{port}").create_experiment("sweep")
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(HANG_S)
    assert code == 0, (tmp_path / "log").read_text()
    with closing(sqlite3.connect(bucket / NAME)) as db:
        assert ("sweep",) in list(db.execute("select name from experiments"))


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
