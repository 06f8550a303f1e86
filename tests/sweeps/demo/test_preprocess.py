"""The page's JavaScript gives the pixels that Pillow and the model give, to the last bit."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from sweeps.demo.settings import PageSettings, page_settings
from sweeps.final_model.pyfunc_model import ImageModel
from tests.javascript import NODE, needs_node
from tests.sweeps.final_model.image_tables import file_of, noise

MODULE = Path(__file__).resolve().parents[3] / "sweeps" / "demo" / "preprocess.mjs"
SCRIPT = """
import { readFileSync, writeFileSync } from "node:fs";
import { normalised, probabilities, square, withoutAlpha } from "MODULE";
for (const { folder, width, height, model, logits } of JSON.parse(readFileSync(0))) {
  const rgb = withoutAlpha(readFileSync(`${folder}/rgba`));
  const pixels = square({ width, height, rgb }, model);
  writeFileSync(`${folder}/square`, pixels);
  const floats = normalised(pixels, model.res, model);
  writeFileSync(`${folder}/normalised`, new Uint8Array(floats.buffer));
  const shares = probabilities(Float32Array.from(logits), model.temperature);
  writeFileSync(`${folder}/shares`, new Uint8Array(Float64Array.from(shares).buffer));
}
"""
pytestmark = [
    needs_node,
    pytest.mark.skipif(
        int(PIL.__version__.partition(".")[0]) < 13,
        reason="Pillow 12 always resizes columns before rows, which rounds otherwise",
    ),
]


def sizes() -> Iterator[tuple[int, int]]:
    """Heights and widths: of all shapes, with sides that stay as they are, tall, wide and thin."""
    rng = np.random.default_rng(0)
    yield from ((int(h), int(w)) for h, w in rng.integers(1, 300, (60, 2)))
    yield from ((73, 73), (73, 200), (200, 73), (300, 40), (1, 1), (1, 9000), (9000, 1), (2, 3))


def as_page(settings: PageSettings) -> Any:
    return json.loads(settings.as_json())


def test_images_are_prepared_as_the_model_does_it(folder: Path, tmp_path: Path) -> None:
    """At other resolutions, crops and interpolations than its own too."""
    net = ImageModel(folder, 1024, {})
    known = page_settings(folder)
    rng = np.random.default_rng(1)
    jobs, folders, wanted = [], [], []
    for number, (height, width) in enumerate(sizes()):
        res, share = int(rng.integers(32, 150)), float(rng.choice([0.7, 0.875, 0.93, 1.0, 1.2]))
        resampling = str(rng.choice(["bicubic", "bilinear"]))
        cache_side = int(rng.choice([73, 1024]))
        # The model's own code, with settings of another.
        net._res, net._side, net._cache_side = res, int(res / share), cache_side
        net._resampling = Image.Resampling[resampling.upper()]
        mean, std = (rng.uniform(0.2, 0.5, 3).astype(np.float32) * 255 for _ in range(2))
        net._mean, net._std = mean, std
        net._temperature = float(rng.uniform(0.3, 3))
        pixels = noise(height, width, seed=number)
        logits = rng.normal(scale=8, size=7).astype(np.float32)
        square = net.square(file_of(pixels))
        normalised = ((square.astype(np.float32) - mean) / std).transpose(2, 0, 1)
        wanted.append((square, normalised, net.probabilities(logits[None])[0]))
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        np.dstack([pixels, np.full((height, width), 255, np.uint8)]).tofile(folders[-1] / "rgba")
        settings = as_page(known) | {
            "res": res,
            "side": int(res / share),
            "cacheSide": cache_side,
            "interpolation": resampling,
            "mean": mean.tolist(),
            "std": std.tolist(),
            "temperature": net._temperature,
        }
        jobs.append(
            {"folder": str(folders[-1]), "width": width, "height": height, "model": settings}
            | {"logits": logits.tolist()}
        )
    assert NODE is not None
    script = tmp_path / "script.mjs"
    script.write_text(SCRIPT.replace("MODULE", MODULE.as_uri()))
    subprocess.run([NODE, str(script)], input=json.dumps(jobs).encode(), check=True)
    for made, (square, normalised, shares) in zip(folders, wanted, strict=True):
        found = np.fromfile(made / "square", np.uint8).reshape(square.shape)
        np.testing.assert_array_equal(found, square, err_msg=str(made))
        floats = np.fromfile(made / "normalised", np.float32).reshape(normalised.shape)
        np.testing.assert_array_equal(floats, normalised)
        np.testing.assert_allclose(np.fromfile(made / "shares"), shares, rtol=1e-12)


def test_the_page_is_told_what_the_model_does(folder: Path) -> None:
    net, told = ImageModel(folder, 1024, {}), as_page(page_settings(folder))
    assert (told["res"], told["cacheSide"], told["labels"]) == (64, 1024, net.labels)
    assert told["side"] == net._side == int(64 / 0.875)
    assert told["temperature"] == net._temperature
    assert told["onnxBytes"] == (folder / "model.onnx").stat().st_size
    for name in ("mean", "std"):
        np.testing.assert_array_equal(np.float32(told[name]), getattr(net, f"_{name}"))
