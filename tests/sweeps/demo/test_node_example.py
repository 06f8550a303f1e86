"""The example for Node says what the command says."""

from __future__ import annotations

import csv
import io
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sweeps.predict import main
from tests.javascript import NODE, needs_node, needs_packages
from tests.sweeps.final_model.image_tables import file_of, noise, other_colours, turned

EXAMPLES = Path(__file__).resolve().parents[3] / "docs" / "examples"

IMAGES: dict[str, Callable[[], bytes]] = {
    "wide.png": lambda: file_of(noise(90, 300, seed=1)),
    "large.png": lambda: file_of(noise(1500, 1200, seed=2)),
    "grey.png": lambda: file_of(noise(90, 90, 1, seed=3)[..., 0]),
    "photo.jpg": lambda: file_of(noise(120, 160, seed=4), "JPEG", quality=90),
    "turned.jpg": lambda: turned(noise(120, 160, seed=5), 6),
    "profile.jpg": lambda: file_of(noise(80, 100, seed=6), "JPEG", icc_profile=other_colours()),
}


def probabilities(table: str) -> dict[tuple[str, str], float]:
    return {
        (line["image"], line["label"]): float(line["probability"])
        for line in csv.DictReader(io.StringIO(table))
    }


@needs_node
@needs_packages("onnxruntime-node", "sharp")
def test_node_says_what_the_command_says(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert NODE is not None
    files = []
    for name, made in IMAGES.items():
        files.append(str(tmp_path / name))
        (tmp_path / name).write_bytes(made())
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [NODE, str(EXAMPLES / "classify.mjs"), str(folder), *files],
        env=os.environ | {"HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert main([str(folder), *files]) == 0
    wanted = probabilities(capsys.readouterr().out)
    assert list(probabilities(done.stdout)) == list(wanted)
    assert probabilities(done.stdout) == pytest.approx(wanted, abs=1e-4)
    assert len({round(share, 3) for share in wanted.values()}) > 1, "it tells images apart"
    assert not list(home.iterdir()), "ONNX Runtime keeps an id of the device there"


def test_a_profile_changes_what_is_shown() -> None:
    """Else the profile above would show nothing."""
    from PIL import ImageCms

    with Image.open(io.BytesIO(IMAGES["profile.jpg"]())) as picture:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
        shown = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"))
        assert shown is not None
        assert np.abs(np.asarray(shown).astype(int) - np.asarray(picture)).max() > 50
