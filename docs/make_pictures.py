"""Make the pictures of docs/tutorial.md from the sweep that its commands have left.

    python docs/make_pictures.py OUT

They are pages in a browser, which has to be there as `chromium`: the beginning of the report, and
MLflow's table of the cells. Colours are reduced until a picture has 60 kB at most.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from PIL import Image

HERE = Path(__file__).resolve().parent
LARGEST = 60_000  # bytes
# The name of a picture, the window that it is taken in, and the part of it that is kept, px.
REPORT = ("tutorial-report.png", (940, 1400), (0, 30, 940, 1385))
# The UI's own assistant takes the right of the window.
CELLS = ("tutorial-mlflow.png", (1640, 640), (0, 0, 1216, 620))
COLOURS = (256, 128, 64, 32, 16)


def shoot(address: str, window: tuple[int, int]) -> Image.Image:
    """Take a picture of a page once it has loaded all that it loads."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.png"
        subprocess.run(
            [
                *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                f"--user-data-dir={folder}/profile",
                f"--window-size={window[0]},{window[1]}",
                "--virtual-time-budget=20000",
                f"--screenshot={path}",
                address,
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        return Image.open(io.BytesIO(path.read_bytes())).convert("RGB")


def save(picture: Image.Image, box: tuple[int, int, int, int], path: Path) -> None:
    """Write a part of a picture, with as many colours as there is room for."""
    part = picture.crop(box)
    for colours in COLOURS:
        part.quantize(colours, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= LARGEST:
            return
    raise SystemExit(f"{path} has more than {LARGEST} bytes with {COLOURS[-1]} colours: cut it.")


@contextmanager
def ui(database: str) -> Iterator[str]:
    """Run MLflow's UI on a free port; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--backend-store-uri", database, "--host", "127.0.0.1", "--port", str(port)),
        ],
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )
    address = f"http://127.0.0.1:{port}"
    try:
        while not _answers(f"{address}/health"):
            if server.poll() is not None:
                raise SystemExit("MLflow's UI does not start: see above.")
            time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


def path_of_cells(database: str) -> str:
    """Find the link to all cells, best first, in the description of the sweep's run."""
    client = MlflowClient(database)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    for run in client.search_runs(experiments):
        found = re.search(
            r"cells, best first\]\((.*?)\)", run.data.tags.get("mlflow.note.content", "")
        )
        if found:
            return found[1]
    raise SystemExit(f"{database} has no sweep: run the commands of docs/tutorial.md first.")


def main() -> None:
    """Make both pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder OUT of the tutorial's sweep")
    out = parser.parse_args().out.resolve()
    name, window, box = REPORT
    save(shoot((out / "report.html").as_uri(), window), box, HERE / name)
    name, window, box = CELLS
    database = f"sqlite:///{out / 'mlflow.db'}"
    with ui(database) as address:
        page = shoot(f"{address}/{path_of_cells(database)}", window)
    save(page, box, HERE / name)


if __name__ == "__main__":
    main()
