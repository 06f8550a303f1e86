"""Train one trunk: a variant, fine-tuned whole at its train resolution, epoch by epoch.

Knows neither scheduler nor tracker: call :meth:`TrunkTraining.epoch` as often as you like, then
:func:`trainables.trunk.settle`. Each epoch ends in the store, so that training goes on from the
last one, in whatever process.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV3

from trainables import backbones, variants
from trainables.decode import ReadOptions, prepare
from trainables.errors import UserError
from trainables.evaluate import Score, autocast, logits_of, pick_device, score
from trainables.imageset import ImageSet
from trainables.keys import plain
from trainables.optim import lr_factor, make_optimizer
from trainables.resolution import TEST_CROP_PCT
from trainables.store import (
    Store,
    append_line,
    read_state,
    write_json,
    write_state,
)
from trainables.transforms import EvalTransform, to_device, train_batches
from trainables.trunk import (
    EpochReport,
    Hyper,
    Recipe,
    TrunkSpec,
    epoch_report,
    recorded_reports,
    settle,
)
from trainables.workplace import Workplace


class TrunkTraining:
    """One trunk in training, resumed from the store where it has been begun."""

    def __init__(
        self,
        spec: TrunkSpec,
        images: ImageSet,
        store: Store,
        *,
        cache: Path,
        threads: int,
        scored: tuple[EvalTransform, ...],
        rungs: tuple[int, ...],
    ):
        """
        Args:
            cache: node-local folder for test views.
            threads: CPU threads for cropping and, on a CPU, for the net.
            scored: what val is scored through, each with a test resolution of its own.
            rungs: the epochs after which it is scored.
        """
        self.spec, self.images, self.store = spec, images, store
        self.place = Workplace(images=images, cache=cache, threads=threads)
        self.scored, self.rungs = scored, rungs
        self.device = pick_device()
        self.variant = variants.get(spec.variant)
        self.preprocessing = variants.preprocessing(self.variant)
        self.folder = store.trunk(spec.key)
        self.reports: list[EpochReport] = []
        self._build()
        self._resume()

    def _build(self) -> None:
        recipe, hyper = self.spec.recipe, self.spec.hyper
        torch.manual_seed(self.spec.seed)  # for the classifier's start
        drop_rate = self.variant.dropout if recipe.dropout else 0.0
        model = backbones.build(self.variant, len(self.images.classes), drop_rate=drop_rate)
        state = backbones.stored_state(self.spec.weights, self.store)
        if state is not None:
            backbones.load_trunk(model, state)
        self.model = backbones.place(model, self.device)
        self.optimizer = make_optimizer(
            self.model, recipe.optimizer, lr=hyper.lr, weight_decay=hyper.weight_decay
        )
        self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay) if recipe.ema_decay else None

    def _resume(self) -> None:
        """Take up the last epoch that the store holds."""
        if (self.folder / "result.json").exists():
            raise ValueError(f"trunk {self.spec.key} is finished")
        state = read_state(self.folder / "state.pt")
        if state is None:
            if not (self.folder / "spec.json").exists():
                write_json(self.folder / "spec.json", self.spec)
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.module.load_state_dict(state["ema"])
        self.reports = [epoch_report(r) for r in state["reports"]]

    @property
    def trained_epochs(self) -> int:
        return len(self.reports)

    @property
    def evaluated_model(self) -> torch.nn.Module:
        """The moving average where there is one, else the model itself."""
        return self.ema.module if self.ema else self.model

    def epoch(self) -> EpochReport:
        """Train one more epoch, score it if it is a rung, and put it into the store."""
        number, began = self.trained_epochs + 1, time.monotonic()
        recipe = self.spec.recipe
        torch.manual_seed(self.spec.seed * 1_000_003 + number)  # dropout's draws
        self.model.train()
        steps_an_epoch = max(1, len(self.images.split("train")) // recipe.batch_size)
        losses = torch.zeros((), device=self.device, dtype=torch.float64)
        hits = torch.zeros((), device=self.device, dtype=torch.int64)
        seen, lr = 0, 0.0
        batches = train_batches(
            self.images.split("train"),
            self.spec.train_res,
            batch_size=recipe.batch_size,
            augmentation=recipe.augmentation,
            interpolation=self.preprocessing.interpolation,
            seed=(self.spec.seed, number),
            threads=self.place.threads,
        )
        for i, batch in enumerate(batches):
            step = (number - 1) * steps_an_epoch + i
            lr = self._set_lr(step, steps_an_epoch)
            x = to_device(batch.pixels, self.preprocessing, self.device)
            flip = torch.from_numpy(batch.flip).to(self.device)
            x = torch.where(flip[:, None, None, None], x.flip(-1), x)
            y = torch.from_numpy(batch.labels).to(self.device)
            loss, logits = self._step(x, y, step)
            losses += loss * len(y)
            hits += (logits.argmax(1) == y).sum()
            seen += len(y)
        mean_loss = float(losses) / seen
        diverged = not (math.isfinite(mean_loss) and self._is_finite())
        report = EpochReport(
            epoch=number,
            loss=mean_loss if math.isfinite(mean_loss) else None,
            train_top1=int(hits) / seen,
            images=seen,
            lr=lr,
            seconds=round(time.monotonic() - began, 3),
            at=int(time.time() * 1000),
            val=self._validate() if number in self.rungs and not diverged else {},
            diverged=diverged,
        )
        self.reports.append(report)
        self._save(report)
        return report

    def as_it_is(self) -> EpochReport:
        """Score the trunk untrained, as epoch 0, and put it into the store.

        Its weights are then the pretrained ones, their classifier included.
        """
        began = time.monotonic()
        report = EpochReport(
            epoch=0,
            loss=None,
            train_top1=None,
            images=0,
            lr=0.0,
            val=self._validate(),
            seconds=round(time.monotonic() - began, 3),
            at=int(time.time() * 1000),
        )
        self.reports.append(report)
        self._save(report)
        return report

    def _is_finite(self) -> bool:
        """Whether the last step left numbers: its own loss is from before it."""
        state = self.evaluated_model.state_dict()
        return bool(torch.stack([tensor.isfinite().all() for tensor in state.values()]).all())

    def _set_lr(self, step: int, steps_an_epoch: int) -> float:
        recipe = self.spec.recipe
        factor = lr_factor(
            step,
            steps=recipe.epochs * steps_an_epoch,
            warmup=round(recipe.warmup_epochs * steps_an_epoch),
            schedule=recipe.schedule,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.spec.hyper.lr * factor
        return self.spec.hyper.lr * factor

    def _step(
        self, x: torch.Tensor, y: torch.Tensor, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        with autocast(self.device):
            logits = self.model(x)
        loss = F.cross_entropy(logits.float(), y, label_smoothing=self.spec.hyper.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.ema:
            self.ema.update(self.model, step=step)
        return loss.detach(), logits.detach()

    def _validate(self) -> dict[int, Score]:
        """Val in the test transform at each test resolution."""
        images = self.images.split("val")
        labels = torch.tensor(images.labels)
        scores = {}
        for transform in self.scored:
            view = self.place.view("val", transform)
            logits = logits_of(
                self.evaluated_model,
                view,
                self.preprocessing,
                batch_size=self.spec.recipe.batch_size,
                device=self.device,
            )
            scores[transform.test_res] = score(logits, labels, "val")
        return scores

    def _save(self, report: EpochReport) -> None:
        # What was really trained, for good and all: an epoch that is redone stands here twice.
        line = {"epoch": report.epoch, "seconds": report.seconds, "at": report.at}
        append_line(self.folder / "work.jsonl", line)
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "reports": plain(self.reports),
        }
        if self.ema:
            state["ema"] = self.ema.module.state_dict()
        write_state(self.folder / "state.pt", state)


def _whole(test_res: int, variant: variants.Variant) -> EvalTransform:
    interpolation = variants.preprocessing(variant).interpolation
    return EvalTransform(test_res=test_res, crop_pct=TEST_CROP_PCT, interpolation=interpolation)


def main() -> None:
    """Train one trunk by itself, without Ray or MLflow."""
    parser = argparse.ArgumentParser(
        prog="python -m trainables.train",
        description="Fine-tune one EfficientNet at one train resolution; score it at others.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="image folder, Parquet or Arrow")
    parser.add_argument("--store", type=Path, required=True, help="where the trunk is kept")
    parser.add_argument("--cache", type=Path, required=True, help="where decoded images are kept")
    parser.add_argument("--variant", default="b0", help="b0..b8, b0_ap..b7_ap, l2, lite0..lite4")
    parser.add_argument("--weights", default="auto", help="auto, none, or a folder")
    parser.add_argument("--train-res", type=int, default=224, help="px")
    parser.add_argument("--test-res", type=int, nargs="+", default=[224, 288], help="px")
    parser.add_argument("--epochs", type=int, default=20, help="epochs")
    parser.add_argument("--batch-size", type=int, default=32, help="images a step")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    parser.add_argument("--seed", type=int, default=0, help="of splits, order and start")
    asked = parser.parse_args()
    try:
        images = prepare(asked.data, asked.cache, ReadOptions(seed=asked.seed))
        store = Store(asked.store)
        variant = variants.get(asked.variant)
        spec = TrunkSpec(
            variant=variant.name,
            train_res=asked.train_res,
            weights=backbones.find_weights(variant, asked.weights, store),
            images=images.digest,
            recipe=Recipe(epochs=asked.epochs, batch_size=asked.batch_size),
            hyper=Hyper(lr=asked.lr, weight_decay=1e-2, label_smoothing=0.1),
            seed=asked.seed,
        )
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    torch.set_num_threads(asked.threads)
    if not (store.trunk(spec.key) / "result.json").exists():
        training = TrunkTraining(
            spec,
            images,
            store,
            cache=asked.cache,
            threads=asked.threads,
            scored=tuple(_whole(res, variant) for res in asked.test_res),
            rungs=(asked.epochs,),
        )
        while training.trained_epochs < asked.epochs:
            report = training.epoch()
            print(f"epoch {report.epoch}: loss {report.loss}, {report.seconds} s")
        settle(store, spec.key, "finished")
    for res, scored in recorded_reports(store, spec.key)[-1].val.items():
        print(f"val top-1 at {res} px: {100 * scored.top1:.1f} % (n={scored.n})")
    print(f"trunk: {store.trunk(spec.key)}")


if __name__ == "__main__":
    main()
