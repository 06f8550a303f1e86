"""Simulate whole choices, and compare what val says of them with what they are worth.

    python benchmarks/optimism.py [--repeats 40] [--val 300 1500] [--signal 0.6 1.0 1.6]

Images are Gaussian features about the means of 10 classes; how far apart these are is the signal. A
trunk sees them with a distortion of its own. Of each of two points, three trunks are compared at a
rung, where val keeps the best one; each that stays is tested at three noises (test resolutions),
as it is (none) and with a classifier that the project's own code fits and val picks (fix). The
project's own choice is made among these 12 rows. For each number of val images and each signal, a
line has the means over all repeats, in % top-1:

    said            the chosen row's kept classifier on val, which picked it, row and trunk
    cross-fitted    the chosen row as it is ranked
    expected        that, less what picking rows and trunks is estimated to flatter it by
    test            the chosen row on 4,000 new images
    covered         how often the 95 % interval of "expected" has the row's true top-1 in it
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sweeps.planning.options.groups import FixOptions, ServingOptions
from sweeps.selection.choice import choose
from sweeps.selection.cut_trunks import virtual_row
from sweeps.selection.leaderboard import Row
from trainables.fixres.head_settings import HeadGrid
from trainables.fixres.heads import fit

CLASSES, WIDTH, TRAIN, TEST = 10, 32, 300, 4000
POINTS, TRUNKS = 2, 3
NOISES = (1.0, 0.95, 1.1)  # at each test resolution
SHARED = 0.7  # share of the noise that all trunks see alike, as they see the same images
DISTORTION = 0.35  # of the class means, of each trunk its own
OPTIONS = FixOptions()
GRID = HeadGrid(
    lr=OPTIONS.head_lr,
    label_smoothing=OPTIONS.head_smoothing,
    epochs=OPTIONS.head_epochs,
    patience=OPTIONS.head_patience,
    batch_size=OPTIONS.head_batch_size,
)


@dataclass(frozen=True)
class Outcome:
    """One simulated sweep: shares of images."""

    said: float
    crossfit: float
    expected: float
    low: float
    high: float
    test: float
    arm: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--val", type=int, nargs="+", default=[300, 1500])
    parser.add_argument("--signal", type=float, nargs="+", default=[0.6, 1.0, 1.6])
    args = parser.parse_args()
    print("| val images | signal | said | cross-fitted | expected | test | covered |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for val in args.val:
        for signal in args.signal:
            found = [simulate(val, signal, seed) for seed in range(args.repeats)]
            print(_line(val, signal, found), flush=True)


def _line(val: int, signal: float, found: list[Outcome]) -> str:
    means = [
        f"{100 * np.mean([getattr(f, name) for f in found]):.1f}"
        for name in ("said", "crossfit", "expected", "test")
    ]
    covered = sum(f.low <= f.test <= f.high for f in found)
    return f"| {val} | {signal:g} | {' | '.join(means)} | {covered} of {len(found)} |"


def simulate(val: int, signal: float, seed: int, grid: HeadGrid = GRID) -> Outcome:
    """Simulate one sweep with ``val`` images of val."""
    world = _World(val, signal, seed)
    rows: dict[Row, tuple[np.ndarray, float]] = {}  # hits on val that count, and top-1 on test
    cut = []
    for point in range(POINTS):
        trunks = [world.trunk() for _ in range(TRUNKS)]
        at_rung = [trunk.untuned_hits(0, "val") for trunk in trunks]
        stays = int(np.argmax([hits.sum() for hits in at_rung]))
        own = _rows(trunks[stays], point, grid, seed)
        rows |= own
        best = max(own, key=lambda r: r.ranked_hits1)
        for number in range(TRUNKS):
            if number != stays:
                cut.append(virtual_row(own[best][0], at_rung[stays], at_rung[number]))
    choice = choose(list(rows), ServingOptions(), lambda r: rows[r][0], cut=np.stack(cut))
    expected = choice.expected
    assert expected is not None
    return Outcome(
        said=choice.row.top1,
        crossfit=choice.row.ranked_top1,
        expected=expected.top1,
        low=expected.low,
        high=expected.high,
        test=rows[choice.row][1],
        arm=choice.row.arm,
    )


class _World:
    """Class means, and images as all trunks see them alike."""

    def __init__(self, val: int, signal: float, seed: int):
        self.draws = torch.Generator().manual_seed(seed)
        self.means = signal * self.normal(CLASSES, WIDTH)
        counts = {"train": TRAIN, "val": val, "test": TEST}
        self.labels = {s: self.draw_labels(n) for s, n in counts.items()}
        self.shared = {s: self.normal(n, WIDTH) for s, n in counts.items()}

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.draws)

    def draw_labels(self, n: int) -> torch.Tensor:
        return torch.randint(CLASSES, (n,), generator=self.draws)

    def trunk(self) -> _Trunk:
        return _Trunk(self)


class _Trunk:
    """A distortion of the class means, noise of its own, and a classifier that is somewhat off."""

    def __init__(self, world: _World):
        self.labels = world.labels
        means = world.means + DISTORTION * world.means.std() * world.normal(CLASSES, WIDTH)
        self._images = {
            split: (
                means[world.labels[split]],
                SHARED**0.5 * shared + (1 - SHARED) ** 0.5 * world.normal(*shared.shape),
            )
            for split, shared in world.shared.items()
        }
        off = means + 1.2 * means.std() * world.normal(CLASSES, WIDTH)
        self.classifier = off / 4, -off.square().sum(dim=1) / 8

    def features(self, view: int, split: str) -> torch.Tensor:
        """Give the features of a split at a test resolution: (N, WIDTH) float32."""
        centre, noise = self._images[split]
        found: torch.Tensor = centre + 4 * NOISES[view] * noise
        return found

    def hits(self, view: int, split: str, weight: torch.Tensor, bias: torch.Tensor) -> np.ndarray:
        """Say which images a classifier has right: (N,) bool."""
        right = (self.features(view, split) @ weight.T + bias).argmax(dim=1) == self.labels[split]
        return np.asarray(right.numpy())

    def untuned_hits(self, view: int, split: str) -> np.ndarray:
        """Say which images the trunk's own classifier has right: (N,) bool."""
        return self.hits(view, split, *self.classifier)


def _rows(
    trunk: _Trunk, point: int, grid: HeadGrid, seed: int
) -> dict[Row, tuple[np.ndarray, float]]:
    rows = {}
    for view in range(len(NOISES)):
        hits = trunk.untuned_hits(view, "val")
        row = _row(point, view, "none", hits, None, 0)
        rows[row] = hits, float(trunk.untuned_hits(view, "test").mean())
        head = fit(
            [trunk.features(view, "train")],
            trunk.labels["train"],
            trunk.features(view, "val"),
            trunk.labels["val"],
            *trunk.classifier,
            grid,
            seed=seed,
        )
        assert head.cross_fit is not None
        crossed = (head.cross_fit.predicted == trunk.labels["val"]).numpy()
        kept = trunk.hits(view, "val", head.weight, head.bias)
        row = _row(point, view, "fix", kept, crossed, head.tried)
        on_test = trunk.hits(view, "test", head.weight, head.bias)
        rows[row] = crossed, float(on_test.mean())
    return rows


def _row(
    point: int, view: int, arm: str, hits: np.ndarray, crossed: np.ndarray | None, tried: int
) -> Row:
    return Row(
        variant="b0",
        train_res=64 + point,
        test_res=64 + view,
        crop_pct=1.0,
        arm=arm,
        split="val",
        n=len(hits),
        top1=float(hits.mean()),
        top5=1.0,
        params_m=1.0,
        gmacs=1.0,
        memory_mb=1.0,
        latency_ms=None,
        images_s=None,
        seconds=0.0,
        trunk=f"t{point}",
        cell=f"c{point}{view}",
        trunk_epochs=1,
        head=None,
        head_tried=tried,
        crossfit_top1=None if crossed is None else float(crossed.mean()),
    )


if __name__ == "__main__":
    main()
