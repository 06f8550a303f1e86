"""Time the fitting of heads on kept features: all settings together against one at a time.

    python benchmarks/head_fit.py [--images 20000] [--classes 10]

The unit is head-images/s: images x heads / seconds of one epoch of training, without val, at batch
size 256 on random features of width 1280. "Plain" is a loop of torch.optim, an epoch for one head
after the other. "Forward" is only a linear layer's forward pass, in large batches in order: a bound
that no training of one head at a time can reach. All run in one warm process; each number is the
best of some repeats, and the three ways take turns, so that a busy moment of the machine hits all.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainables.fixres.head_settings import HeadGrid
from trainables.fixres.heads import epoch_order, fit

WIDTH, BATCH, LARGE = 1280, 256, 2048
HEADS = (1, 8, 32)
OPTIMIZERS = ("sgd", "adamw")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    bench = Bench(args.images, args.classes)
    print(f"{args.images} images, {args.classes} classes, {torch.get_num_threads()} threads")
    print("head-images/s, thousands      ours    plain   forward   ours/plain  ours/forward")
    for name in OPTIMIZERS:
        for heads in HEADS:
            ways = (
                lambda n=name, h=heads: bench.ours(n, h),
                lambda n=name: bench.plain(n),
                bench.forward,
            )
            ours, plain, forward = (args.images / s / 1e3 for s in best_of(args.repeats, ways))
            ours *= heads
            print(
                f"{name:6} {heads:3} heads        {ours:12.0f} {plain:8.0f} {forward:9.0f}"
                f" {ours / plain:12.1f} {ours / forward:13.2f}"
            )


def best_of(repeats: int, ways: tuple[Callable[[], None], ...]) -> list[float]:
    """Time each way: the least seconds of ``repeats``, after one run that is not counted."""
    seconds: list[list[float]] = [[] for _ in ways]
    for _ in range(repeats + 1):
        for way, taken in zip(ways, seconds, strict=True):
            began = time.perf_counter()
            way()
            taken.append(time.perf_counter() - began)
    return [min(taken[1:]) for taken in seconds]


class Bench:
    """Random features, and the three ways over them."""

    def __init__(self, images: int, classes: int):
        torch.manual_seed(0)
        self.features = torch.randn(images, WIDTH)
        self.labels = torch.randint(classes, (images,))
        self.head = torch.nn.Linear(WIDTH, classes)

    def ours(self, optimizer: str, heads: int) -> None:
        grid = HeadGrid(
            lr=tuple(1e-3 * 1.1**i for i in range(heads)),
            label_smoothing=(0.1,),
            optimizer=(optimizer,),
            epochs=1,
            patience=1,
            batch_size=BATCH,
        )
        val = self.features[:1], self.labels[:1]
        start = self.head.weight, self.head.bias
        fit([self.features], self.labels, *val, *start, grid, seed=0)

    def plain(self, name: str) -> None:
        head = torch.nn.Linear(WIDTH, self.head.out_features)
        head.load_state_dict(self.head.state_dict())
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
        if name == "sgd":
            optimizer = torch.optim.SGD(head.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)
        for chosen in epoch_order(len(self.labels), 0, 1).split(BATCH):
            z = head(self.features[chosen])
            loss = F.cross_entropy(z, self.labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    @torch.inference_mode()
    def forward(self) -> None:
        for f in self.features.split(LARGE):
            self.head(f)


if __name__ == "__main__":
    main()
