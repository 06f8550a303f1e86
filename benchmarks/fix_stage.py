"""Time the fix stage of one trunk: kept features against a forward pass in every epoch.

    python benchmarks/fix_stage.py [--images 1200] [--test-res 96]

Both ways fit the same classifiers (learning rates x label smoothings) for the same epochs on the
same images in the same order, score each epoch on val and keep the best; in one process, one after
the other. "Plain" is what fine-tuning scripts do for each setting: they take the statistics of the
last batch norm once, then run the frozen net over train and val in every epoch. "Ours" runs the net
over each once and fits all settings together. The output is the seconds, their ratio, the share of
ours that passes of the net take (which every fix stage needs), and both top-1 on val.

What streaming changes of it, where not all maps are kept, is compared by ``streamed_cells.py``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainables.data import builtin_digits
from trainables.data.decode import prepare
from trainables.data.image_set import ImageSet
from trainables.data.options import ReadOptions
from trainables.data.view_cache import ViewCache
from trainables.evaluation.confidence import standard_error
from trainables.evaluation.inference import batches_of
from trainables.fixres import features, heads
from trainables.fixres.head_settings import HeadGrid
from trainables.models import backbone, variants
from trainables.models.device import pick_device
from trainables.models.weights import find_weights, stored_state
from trainables.storage.artifact_store import Store
from trainables.transforms.eval_transform import EvalTransform

BATCH, EPOCHS = 64, 5
GRID = HeadGrid(
    lr=(0.003, 0.01, 0.03, 0.1),
    label_smoothing=(0.0, 0.1),
    epochs=EPOCHS,
    patience=EPOCHS,
    batch_size=BATCH,
)
RUNS = len(GRID.lr) * len(GRID.label_smoothing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1200, help="of train, at most")
    parser.add_argument("--test-res", type=int, default=96, help="px")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), args.images, args.test_res)
        bench.ours()  # This warms up: kernels are chosen, and files are in the page cache.
        began = time.perf_counter()
        ours, pass_seconds = bench.ours()
        middle = time.perf_counter()
        plain = bench.plain()
        ended = time.perf_counter()
    n = len(bench.val)
    error = standard_error(max(ours, plain), n)
    print(
        f"{len(bench.train)} train and {n} val images, lite0 at {args.test_res} px, {bench.device}"
    )
    print(f"{RUNS} settings x {EPOCHS} epochs: {RUNS * EPOCHS} passes of the net, or one")
    ratio = (ended - middle) / (middle - began)
    print(f"plain {ended - middle:.2f} s, ours {middle - began:.2f} s: {ratio:.1f} times as fast")
    print(f"the passes of the net are {100 * pass_seconds / (middle - began):.0f} % of ours")
    print(
        f"val top-1: plain {100 * plain / n:.1f} %, ours {100 * ours / n:.1f} % (n={n}, standard "
        f"error {100 * error:.1f} points)"
    )


class Bench:
    """One trunk and one image set; each way returns the hits on val of the classifier it picks."""

    def __init__(self, folder: Path, max_images: int, test_res: int):
        images = self._images(folder)
        self.device = pick_device()
        variant = variants.get("lite0")
        self.preprocessing = variants.preprocessing(variant)
        store = Store(folder / "store")
        state = stored_state(find_weights(variant, "auto", store), store)
        assert state is not None
        model = backbone.build(variant, len(images.classes))
        backbone.load_trunk(model, state)
        self.model = backbone.to_device(model, self.device).eval()
        threads = torch.get_num_threads()
        view_cache = ViewCache(images=images, cache=folder / "cache", threads=threads)
        transform = EvalTransform(
            test_res=test_res, crop_pct=1.0, interpolation=self.preprocessing.interpolation
        )
        self.train = view_cache.view("train", transform, most=max_images)
        self.val = view_cache.view("val", transform)
        labels = images.split("train").labels[: len(self.train)]
        self.labels = torch.tensor(labels, device=self.device)
        self.val_labels = torch.tensor(images.split("val").labels, device=self.device)
        self.scratch = folder / "scratch"

    @staticmethod
    def _images(folder: Path) -> ImageSet:
        return prepare(builtin_digits.make(folder / "digits"), folder / "cache", ReadOptions())

    def _pass(self, view: np.ndarray) -> features.Maps:
        return features.body_pass(
            self.model,
            view,
            self.preprocessing,
            batch_size=BATCH,
            device=self.device,
            scratch=self.scratch,
        )

    def ours(self) -> tuple[int, float]:
        """Run one pass over train and one over val, and fit all settings together.

        Returns:
            Hits on val, and the seconds of the passes.
        """
        options = {"batch_size": BATCH, "device": self.device}
        began = time.perf_counter()
        with self._pass(self.train) as train_maps, self._pass(self.val) as val_maps:
            pass_seconds = time.perf_counter() - began
            features.set_norm(
                self.model, features.norm_statistics(self.model, train_maps, **options)
            )
            train, val = (
                features.features_of(self.model, maps, **options).to(self.device)
                for maps in (train_maps, val_maps)
            )
        head = self.model.classifier
        fitted = heads.fit(
            [train], self.labels, val, self.val_labels, head.weight, head.bias, GRID, seed=0
        )
        logits = F.linear(val, fitted.weight, fitted.bias)
        return int((logits.argmax(1) == self.val_labels).sum()), pass_seconds

    def plain(self) -> int:
        """Fit setting by setting, with a pass over train and one over val in each epoch."""
        self._plain_norm()
        return max(
            self._plain_setting(lr, smoothing)
            for lr in GRID.lr
            for smoothing in GRID.label_smoothing
        )

    def _plain_norm(self) -> None:
        """Estimate the last batch norm's statistics by averaging over the batches of one epoch."""
        norm = self.model.bn2
        norm.reset_running_stats()
        norm.momentum = None  # In PyTorch this means the plain average over batches.
        norm.train()
        with torch.no_grad():
            for x in batches_of(self.train, BATCH, self.preprocessing, self.device):
                self.model(x)
        norm.eval()

    def _plain_setting(self, lr: float, smoothing: float) -> int:
        start = self.model.classifier
        head = torch.nn.Linear(start.in_features, start.out_features).to(self.device)
        head.load_state_dict(start.state_dict())
        optimizer = torch.optim.SGD(
            head.parameters(), lr=lr, momentum=GRID.momentum, weight_decay=GRID.weight_decay[0]
        )
        hits = []
        for epoch in range(1, EPOCHS + 1):
            for chosen in heads.epoch_order(len(self.train), 0, epoch).split(BATCH):
                [x] = batches_of(self.train[chosen.numpy()], BATCH, self.preprocessing, self.device)
                loss = F.cross_entropy(
                    head(self._frozen(x)), self.labels[chosen], label_smoothing=smoothing
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            hits.append(self._plain_hits(head))
        return max(hits)

    def _frozen(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            maps = backbone.body(self.model, x)
            return backbone.pooled(self.model, self.model.conv_head(maps))

    @torch.no_grad()
    def _plain_hits(self, head: torch.nn.Linear) -> int:
        batches = batches_of(self.val, BATCH, self.preprocessing, self.device)
        logits = torch.cat([head(self._frozen(x)) for x in batches])
        return int((logits.argmax(1) == self.val_labels).sum())


if __name__ == "__main__":
    main()
