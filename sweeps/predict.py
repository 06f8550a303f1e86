#!/usr/bin/env python3
"""Classify images with a finished model, by ONNX Runtime alone.

    python sweeps/predict.py OUT/model PHOTO.jpg FOLDER --top-k 3 > predictions.csv

Images are prepared as in the sweep. NumPy, pandas, PyYAML, Pillow and ONNX Runtime are all that has
to be installed. An installed package brings it as ``fixres-predict``.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if not __package__:  # run as a script: its own folder is first on the path, not the project's
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from trainables.data.pixels import BadImageError
from trainables.errors import IncompleteError, UserError, exit_code, printable
from trainables.sources.left_out import is_image_name, is_left_out

if TYPE_CHECKING:
    from sweeps.final_model.pyfunc_model import ImageModel

BATCH = 32  # images that are read and classified at a time


def main(argv: list[str], prog: str = "predict.py") -> int:
    """Classify, and print a line for each image; return the exit code.

    It is 0: done, 1: a fault of ours, 2: bad input, 3: done, but images could not be read.
    """
    return exit_code(lambda: _predict(_parser(prog).parse_args(argv)), str)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Classify images with a finished model. The output is CSV: the path of an "
        "image, then its likeliest classes, each with its probability.",
    )
    parser.add_argument("model", type=Path, help="the folder OUT/model of a sweep")
    parser.add_argument("images", type=Path, nargs="+", help="image files, and folders of them")
    parser.add_argument("--top-k", type=int, default=1, help="classes of each image (default: 1)")
    return parser


def _predict(asked: argparse.Namespace) -> None:
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
    needed = ("config.json", "model.onnx", "MLmodel")
    lacks = [name for name in needed if not (folder / name).exists()]
    if lacks:
        raise UserError(
            f"{printable(str(folder))} has no {lacks[0]}: name the folder OUT/model of a finished "
            "sweep."
        )
    # Imported after the check, so that a wrong folder fails at once, and --help without it.
    import yaml

    from sweeps.final_model.pyfunc_model import _load_pyfunc

    written = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
    return _load_pyfunc(str(folder), written["flavors"]["python_function"]["config"])


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
