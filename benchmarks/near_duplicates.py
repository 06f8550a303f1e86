"""Measure the search for near-duplicates: seconds by number of hashes, and what it finds and errs.

    python benchmarks/near_duplicates.py                    seconds at 10k, 100k and 1M hashes
    python benchmarks/near_duplicates.py --images FOLDER    finds and errors on photographs

Seconds: for a tenth of the hashes a copy with four bits changed is looked for among all; comparing
each with each is timed beside it, for as many as ten seconds allow. Besides random hashes there are
those of crops of two photographs that come with scikit-learn (--crops), which crowd as real ones.

Finds and errors: each photograph of FOLDER is taken for one of its own, so any two that are near
are an error, and 500 of them are edited as copies are: compressed again, resized, cut, brightened.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

from trainables.near_duplicates import hamming_search
from trainables.near_duplicates.hamming_search import nearest
from trainables.near_duplicates.perceptual_hash import perceptual_hash

SUFFIXES = (".jpg", ".jpeg", ".png")
Edit = Callable[[Image.Image], Image.Image]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=Path, help="a folder of photographs, all different")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--crops", action="store_true", help="of crops of photographs, as well")
    options = parser.parse_args()
    if options.images:
        measure_finds(options.images)
        return
    for count in options.sizes:
        measure_seconds("random", random_hashes(count))
        if options.crops:
            measure_seconds("crops", crop_hashes(count))


# --- seconds ------------------------------------------------------------------------------------


def random_hashes(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**64, (count, 4), dtype=np.uint64)


def crop_hashes(count: int) -> np.ndarray:
    """Hash squares of any size and place in two photographs."""
    rng, photographs = np.random.default_rng(0), load_sample_images().images
    hashes = []
    for _ in range(count):
        picture = photographs[rng.integers(len(photographs))]
        side = int(rng.integers(40, 400))
        top, left = (int(rng.integers(edge - side)) for edge in picture.shape[:2])
        hashes.append(perceptual_hash(np.ascontiguousarray(picture[top:, left:][:side, :side])))
    return np.array(hashes)


def measure_seconds(kind: str, references: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    queries = references[::10] ^ (np.uint64(1) << rng.integers(0, 64, (1, 4), dtype=np.uint64))
    began = time.perf_counter()
    found, _ = nearest(queries, references)
    seconds = time.perf_counter() - began
    began, compared = time.perf_counter(), 0
    while compared < len(queries) and time.perf_counter() - began < 10:
        np.bitwise_count(references ^ queries[compared]).sum(axis=1)
        compared += 1
    each = (time.perf_counter() - began) / compared
    print(
        f"{len(references):>9,} {kind} hashes, {len(queries):,} looked for: {seconds:.2f} s,"
        f" {np.mean(found >= 0):.1%} found; each with each {each * len(queries):.1f} s"
    )


# --- finds and errors ---------------------------------------------------------------------------


def compressed(quality: int) -> Edit:
    def edit(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(io.BytesIO(file.getvalue())).convert("RGB")

    return edit


def resized(factor: float) -> Edit:
    return lambda image: image.resize((round(image.width * factor), round(image.height * factor)))


def cut(share: float) -> Edit:
    def edit(image: Image.Image) -> Image.Image:
        x, y = round(share * image.width), round(share * image.height)
        return image.crop((x, y, image.width - x, image.height - y))

    return edit


def brightened(factor: float) -> Edit:
    return lambda image: ImageEnhance.Brightness(image).enhance(factor)


EDITS: dict[str, Edit] = {
    "JPEG 75": compressed(75),
    "JPEG 40": compressed(40),
    "half the size": resized(0.5),
    "1.5 times the size": resized(1.5),
    "1 % cut each side": cut(0.01),
    "2 % cut each side": cut(0.02),
    "3 % cut each side": cut(0.03),
    "5 % cut each side": cut(0.05),
    "brightness 0.8": brightened(0.8),
    "brightness 1.2": brightened(1.2),
    "2 % cut, 1.1, JPEG 75": lambda image: compressed(75)(brightened(1.1)(cut(0.02)(image))),
}


def measure_finds(folder: Path) -> None:
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    images = [Image.open(path).convert("RGB") for path in paths]
    own = np.array([perceptual_hash(np.asarray(image)) for image in images])
    some = np.random.default_rng(0).permutation(len(images))[:500]
    edited = {
        name: np.array([perceptual_hash(np.asarray(edit(images[place]))) for place in some])
        for name, edit in EDITS.items()
    }
    print(f"{len(images):,} photographs; % of {len(some)} edited ones that are found")
    for coarse in (6, 7, 8):
        for whole in (32, 36, 40, 44, 48):
            hamming_search.COARSE_BITS, hamming_search.ALL_BITS = coarse, whole
            print(f"{coarse} of 64 and {whole} of 256 bits: {errors(own)} images are like another")
            for name, hashes in edited.items():
                bits = np.bitwise_count(hashes ^ own[some])
                near = (bits[:, 0] <= coarse) & (bits.sum(axis=1) <= whole)
                print(f"    {name:<22} {100 * near.mean():.1f}")


def errors(own: np.ndarray) -> int:
    """Count images that are near to another."""
    halves = np.arange(len(own))
    near = np.zeros(len(own), dtype=bool)
    bit = 1
    while bit < 2 * len(own):  # any two differ in a bit of their number
        one, other = (np.flatnonzero((halves & bit > 0) == side) for side in (True, False))
        for queries, references in ((one, other), (other, one)):
            near[queries] |= nearest(own[queries], own[references])[0] >= 0
        bit *= 2
    return int(near.sum())


if __name__ == "__main__":
    main()
