"""What a canvas makes of images, against what the demo page makes: pixels, and the net's answers.

    python benchmarks/canvas.py OUT/model IMAGES --most 200

Each image is decoded by Chromium, which has to be installed, and brought to the net's resolution
twice: by ``sweeps/demo/preprocess.mjs``, and by drawing it on a canvas at the highest quality of
smoothing, as pages do. Both are compared with what the sweep made of the file, by Pillow.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from sweeps.demo.server import demo_server
from sweeps.predict import open_model
from tests.browser import page_in_chromium
from tests.javascript import PACKAGES

PREPARE = """(async () => {
  const { square, withoutAlpha } = await import("/preprocess.mjs");
  const model = await (await fetch("/model.json")).json();
  const bytes = Uint8Array.from(atob(BASE64), (letter) => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes]), { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const drawn = (side, x, y, w, h) => {
    const context = new OffscreenCanvas(side[0], side[1]).getContext("2d");
    context.imageSmoothingQuality = "high";
    context.fillStyle = "#fff";
    context.fillRect(0, 0, ...side);
    context.drawImage(bitmap, x, y, w, h);
    return withoutAlpha(context.getImageData(0, 0, ...side).data);
  };
  const rgb = drawn([width, height], 0, 0, width, height);
  const scale = model.side / Math.min(width, height);
  const [w, h] = [width * scale, height * scale];
  const res = model.res;
  const both = [
    square({ width, height, rgb }, model),
    drawn([res, res], (res - w) / 2, (res - h) / 2, w, h),
  ];
  return both.map((pixels) => Array.from(pixels));
})()"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="the folder OUT/model of a sweep")
    parser.add_argument("images", type=Path, help="a folder with JPEGs, at any depth")
    parser.add_argument("--most", type=int, default=200, help="images, drawn at random")
    args = parser.parse_args()
    net = open_model(args.model)
    files = sorted(p for p in args.images.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    random.Random(0).shuffle(files)
    made: list[list[np.ndarray]] = []
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        demo_server(args.model, PACKAGES / "onnxruntime-web", 0) as server,
        page_in_chromium(Path(profile)) as page,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.open(server.address)
        page.wait_for("document.getElementById('page')?.dataset.state === 'ready'")
        for file in files[: args.most]:
            content = file.read_bytes()
            wanted = net.square(content)
            text = json.dumps(base64.b64encode(content).decode())
            found = page.evaluate(PREPARE.replace("BASE64", text))
            made.append([wanted, *(np.array(f, np.uint8).reshape(wanted.shape) for f in found)])
        server.shutdown()
    wanted, *found = (np.stack(pixels) for pixels in zip(*made, strict=True))
    expected = net.probabilities(net.logits(wanted))
    print(f"{len(wanted)} images, at {wanted.shape[1]} px; against Pillow\n")
    print("| | images alike | bytes: mean difference | largest | probabilities | other top-1 |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, pixels in zip(("preprocess.mjs", "canvas"), found, strict=True):
        off = np.abs(pixels.astype(int) - wanted)
        shares = net.probabilities(net.logits(pixels))
        moved = np.abs(shares - expected).max(axis=1).mean()
        alike = int((off.max(axis=(1, 2, 3)) == 0).sum())
        others = int((shares.argmax(axis=1) != expected.argmax(axis=1)).sum())
        line = [alike, f"{off.mean():.4f}", off.max(), f"{moved:.4f}", others]
        print(f"| {name} | {' | '.join(map(str, line))} |")
    print("\nProbabilities: the largest difference of a class, mean over the images.")


if __name__ == "__main__":
    main()
