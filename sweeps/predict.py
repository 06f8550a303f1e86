#!/usr/bin/env python3
"""Classify images with a finished model, by ONNX Runtime alone.

    python sweeps/predict.py OUT/model PHOTO.jpg FOLDER --top-k 3 > predictions.csv
    python sweeps/predict.py OUT/model --demo    # a page on this machine, to drop images on

Images are prepared as in the sweep. NumPy, pandas, PyYAML, Pillow and ONNX Runtime are all that has
to be installed. An installed package brings it as ``fixres-predict``.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if not __package__:  # run as a script: its own folder is first on the path, not the project's
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from sweeps.final_model.written_model import reading_config
from trainables.data.pixels import BadImageError
from trainables.errors import IncompleteError, UserError, exit_code, printable
from trainables.sources.left_out import is_image_name, is_left_out

if TYPE_CHECKING:
    from sweeps.final_model.pyfunc_model import ImageModel

BATCH = 32  # images that are read and classified at a time
MAX_PORT = 65535


def main(argv: list[str], prog: str = "predict.py") -> int:
    """Classify, and print a line for each image; return the exit code.

    It is 0: done, 1: a fault of ours, 2: bad input, 3: done, but images could not be read.
    """
    return exit_code(lambda: _work(_parser(prog).parse_args(argv)), str)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Classify images with a finished model. The output is CSV: the path of an "
        "image, then its likeliest classes, each with its probability. With --demo: a page.",
    )
    parser.add_argument("model", type=Path, help="the folder OUT/model of a sweep")
    parser.add_argument("images", type=Path, nargs="*", help="image files, and folders of them")
    parser.add_argument("--top-k", type=int, default=1, help="classes of each image (default: 1)")
    parser.add_argument(
        "--demo",
        action="store_true",
        help="serve a page on this machine, where one drops an image and sees its classes; the net "
        "runs in the browser",
    )
    parser.add_argument(
        "--onnxruntime-web",
        type=Path,
        default=Path("node_modules/onnxruntime-web"),
        metavar="DIR",
        help="folder of that npm package, for --demo (default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="of the page; 0: any that is free (default: 8000)"
    )
    return parser


def _work(asked: argparse.Namespace) -> None:
    if not asked.demo:
        _predict(asked)
    elif asked.images:
        raise UserError(
            f"--demo takes its images in the browser: leave {printable(str(asked.images[0]))} out, "
            "or leave --demo out."
        )
    else:
        _demo(asked)


def _demo(asked: argparse.Namespace) -> None:
    if not 0 <= asked.port <= MAX_PORT:
        raise UserError(f"--port {asked.port} is out of bounds: give 0 to {MAX_PORT}.")
    from sweeps.demo.server import demo_server

    with demo_server(asked.model, asked.onnxruntime_web, asked.port) as server:
        print(f"demo  {server.address}  (Ctrl-C ends it)", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


def _predict(asked: argparse.Namespace) -> None:
    if not asked.images:
        raise UserError("no image is named: name image files or folders, or give --demo.")
    model = open_model(asked.model)
    if not 1 <= asked.top_k <= len(model.labels):
        raise UserError(
            f"--top-k {asked.top_k} is out of bounds: the model has {len(model.labels)} classes."
        )
    for path in asked.images:
        if not path.exists():
            raise UserError(f"{printable(str(path))} does not exist: name images or folders.")
    paths = [path for given in asked.images for path in _image_files(given)]
    if not paths:
        raise UserError(f"{printable(str(asked.images[0]))} has no image below it: name another.")
    numbers = [""] if asked.top_k == 1 else [str(k) for k in range(1, asked.top_k + 1)]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", *(name + n for n in numbers for name in ("label", "probability"))])
    unread = 0
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        squares = list(_squares(model, batch))
        unread += len(batch) - len(squares)
        if squares:
            found = model.probabilities(model.logits(np.stack([pixels for _, pixels in squares])))
            for (path, _), row in zip(squares, found, strict=True):
                best = np.argsort(-row, kind="stable")[: asked.top_k]
                words = [word for k in best for word in (model.labels[k], f"{row[k]:.6f}")]
                writer.writerow([printable(str(path)), *words])
        sys.stdout.flush()
    if unread:
        raise IncompleteError(f"{unread} of {len(paths)} images could not be read: see above.")


def _squares(model: ImageModel, paths: Sequence[Path]) -> Iterator[tuple[Path, np.ndarray]]:
    """Prepare images; say of each that cannot be read why, and leave it out."""
    for path in paths:
        try:
            yield path, model.square(path.read_bytes())
        except (BadImageError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            print(f"{printable(str(path))} cannot be read: {reason}", file=sys.stderr)


def open_model(folder: Path) -> ImageModel:
    """Open the model of a folder that a sweep has written.

    Raises:
        UserError: it is none.
    """
    config = reading_config(folder)
    # Imported after the check, so that a wrong folder fails at once, and --help without it.
    from sweeps.final_model.pyfunc_model import _load_pyfunc

    return _load_pyfunc(str(folder), config)


def _image_files(path: Path) -> list[Path]:
    """List an image, or those below a folder by their names; nothing hidden, no leftovers."""
    if not path.is_dir():
        return [path]
    return [
        found
        for found in sorted(path.rglob("*"))
        if is_image_name(found.name) and not any(map(is_left_out, found.relative_to(path).parts))
    ]


def console_main() -> int:
    """Run the installed command ``fixres-predict``."""
    return main(sys.argv[1:], prog="fixres-predict")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
