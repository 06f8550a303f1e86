"""The fix stage of one trunk at one test resolution: kept features against a forward every epoch.

    python benchmarks/fix_stage.py [--images 800] [--test-res 96]

Both fit the same heads (learning rates x label smoothings, some epochs) on the same images in the
same order, in one process, one after the other. Plain is what fine-tuning scripts do: the frozen
net runs over the images in every epoch of every setting. Ours runs it once and fits all settings
together. Printed: seconds, their ratio, the share of ours that is the one pass (which no fix stage
can do without), and the largest difference between the two's val logits.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sweeps import embedded
from trainables import backbones, features, heads, variants
from trainables.decode import ImageSet, ReadOptions, prepare
from trainables.evaluate import batches_of, pick_device
from trainables.store import Store
from trainables.workplace import Workplace

BATCH = 64
GRID = heads.HeadGrid(
    lr=(0.003, 0.01, 0.03, 0.1), label_smoothing=(0.0, 0.1), epochs=(5,), batch_size=BATCH
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=800, help="of train, at most")
    parser.add_argument("--test-res", type=int, default=96, help="px")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), asked.images, asked.test_res)
        bench.ours()  # warm: kernels chosen, files in the page cache
        began = time.perf_counter()
        ours, pass_seconds = bench.ours()
        middle = time.perf_counter()
        plain = bench.plain()
        ended = time.perf_counter()
    ratio = (ended - middle) / (middle - began)
    runs = len(GRID.lr) * len(GRID.label_smoothing)
    print(f"{len(bench.train)} train images, lite0 at {asked.test_res} px, {bench.device}")
    print(f"{runs} settings x {max(GRID.epochs)} epochs: {runs * max(GRID.epochs)} passes or one")
    print(f"plain {ended - middle:.2f} s, ours {middle - began:.2f} s: {ratio:.1f} times as fast")
    print(f"the one pass is {100 * pass_seconds / (middle - began):.0f} % of ours")
    print(f"largest difference of a val logit: {(ours - plain).abs().max():.1e}")


class Bench:
    """One trunk, one image set, two ways."""

    def __init__(self, folder: Path, most: int, test_res: int):
        images = self._images(folder)
        self.device = pick_device()
        variant = variants.get("lite0")
        self.preprocessing = variants.preprocessing(variant)
        store = Store(folder / "store")
        state = backbones.stored_state(backbones.find_weights(variant, "auto", store), store)
        assert state is not None
        model = backbones.build(variant, len(images.classes))
        backbones.load_trunk(model, state)
        self.model = backbones.place(model, self.device).eval()
        threads = torch.get_num_threads()
        place = Workplace(images=images, cache=folder / "cache", threads=threads)
        interpolation = self.preprocessing.interpolation
        self.train = place.view("train", test_res, interpolation)[:most]
        self.val = place.view("val", test_res, interpolation)
        self.labels = torch.tensor(images.split("train").labels[:most], device=self.device)
        self.scratch = folder / "scratch"

    @staticmethod
    def _images(folder: Path) -> ImageSet:
        return prepare(embedded.make(folder / "digits"), folder / "cache", ReadOptions())

    def _pass(self, view: object) -> features.Maps:
        return features.pass_over(
            self.model,
            view,  # type: ignore[arg-type]
            self.preprocessing,
            batch_size=BATCH,
            device=self.device,
            scratch=self.scratch,
        )

    def ours(self) -> tuple[torch.Tensor, float]:
        """Val logits of every setting (N, S, C), and the seconds of the pass over train."""
        size = {"batch_size": BATCH, "device": self.device}
        began = time.perf_counter()
        with self._pass(self.train) as maps:
            pass_seconds = time.perf_counter() - began
            statistics = features.norm_statistics(self.model, maps, **size)
            features.set_norm(self.model, statistics)
            kept = torch.from_numpy(features.features_of(self.model, maps, **size))
        head = self.model.classifier
        fitted = heads.fit(kept.to(self.device), self.labels, head.weight, head.bias, GRID, seed=0)
        with self._pass(self.val) as maps:
            val = torch.from_numpy(features.features_of(self.model, maps, **size))
        return fitted.logits(val.to(self.device)).cpu(), pass_seconds

    def plain(self) -> torch.Tensor:
        """The same, by a pass in each epoch of each setting."""
        fitted = [self._plain_head(setting) for setting in GRID.settings]
        logits = []
        with torch.inference_mode():
            for x in batches_of(self.val, BATCH, self.preprocessing, self.device):
                pooled = self._frozen(x)
                logits.append(torch.stack([head(pooled) for head in fitted], dim=1).cpu())
        return torch.cat(logits)

    def _frozen(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            maps = backbones.body(self.model, x)
            return backbones.pooled(self.model, self.model.conv_head(maps))

    def _plain_head(self, setting: heads.HeadSetting) -> torch.nn.Linear:
        start = self.model.classifier
        head = torch.nn.Linear(start.in_features, start.out_features).to(self.device)
        head.load_state_dict(start.state_dict())
        optimizer = torch.optim.SGD(
            head.parameters(),
            lr=setting.lr,
            momentum=GRID.momentum,
            weight_decay=GRID.weight_decay,
        )
        for epoch in range(1, setting.epochs + 1):
            for chosen in heads.epoch_order(len(self.train), 0, epoch).split(BATCH):
                [x] = batches_of(self.train[chosen.numpy()], BATCH, self.preprocessing, self.device)
                loss = F.cross_entropy(
                    head(self._frozen(x)),
                    self.labels[chosen],
                    label_smoothing=setting.label_smoothing,
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return head


if __name__ == "__main__":
    main()
