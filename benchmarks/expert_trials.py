"""What the trials of the expert's script do: train a trunk, and adapt it in a cell.

A trunk is fine-tuned whole: AdamW, linear warm-up, cosine, dropout, RandomResizedCrop, flip; val is
scored at the rungs alone. A cell scores the trunk as it is, and then takes FixRes's step (Touvron
et al., arXiv:1906.06423) plainly: for each of FIX_LR it trains classifier and last batch norm, this
in training mode, for FIX_EPOCHS epochs on the train images in the test transform, each a pass of
the whole net over train and one over val; the best epoch on val is kept. Files are decoded in each
epoch, by the trial itself where it has one core.
"""

from __future__ import annotations

import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import timm
import timm.optim
import torch
from PIL import Image, ImageOps
from ray import tune
from safetensors.torch import load_file, save_file
from timm.data import create_transform
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

Json = dict[str, Any]
ARMS = ("none", "fix")
FIX_LR, FIX_EPOCHS, FIX_BATCH = (0.01, 0.03), 5, 64


class Files(Dataset[tuple[torch.Tensor, int]]):
    """Images of a split, decoded from their files each time."""

    def __init__(self, request: Json, split: str, transform: Any):
        self._items, self._transform = request["splits"][split], transform

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        path, label = self._items[place]
        with Image.open(path) as image:
            return self._transform(ImageOps.exif_transpose(image).convert("RGB")), label


def prepared(variant: Json) -> Json:
    """What timm's transforms take of a variant's preprocessing."""
    return {name: variant[name] for name in ("mean", "std", "interpolation")}


def eval_files(request: Json, variant: str, split: str, res: int, crop: float) -> Files:
    """A split in the test transform."""
    own = prepared(request["variants"][variant])
    return Files(request, split, create_transform(res, crop_pct=crop, **own))


def loader(files: Files, request: Json, *, batch: int, train: bool) -> DataLoader[Any]:
    """Batches; a trial with one core loads by itself, others by as many workers as are left."""
    return DataLoader(
        files,
        batch_size=min(batch, len(files)),
        shuffle=train,
        drop_last=train,
        num_workers=request["cores"] - 1,
    )


def channels_last(what: Any) -> Any:
    """Lay images or a net out as CPUs train them fastest."""
    return what.to(memory_format=torch.channels_last)


def build(request: Json, variant: str, weights: str) -> Any:
    """Build a net; a classifier of other classes starts at zero."""
    about = request["variants"][variant]
    classes = len(request["classes"])
    net: Any = timm.create_model(
        about["timm_name"], num_classes=classes, drop_rate=about["dropout"]
    )
    state = load_file(weights)
    if len(state["classifier.bias"]) != classes:
        state["classifier.weight"] = torch.zeros_like(net.classifier.weight)
        state["classifier.bias"] = torch.zeros_like(net.classifier.bias)
    net.load_state_dict(state)
    return channels_last(net)


def save(state: Json, path: str | Path) -> None:
    """Save a state dict; safetensors takes no channels-last layout."""
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


@torch.inference_mode()
def count_hits(net: nn.Module, files: Files, request: Json) -> int:
    """Count the images whose class has the largest logit."""
    net.eval()
    batches = loader(files, request, batch=FIX_BATCH, train=False)
    return sum(int((net(channels_last(x)).argmax(1) == y).sum()) for x, y in batches)


class Reused(tune.Trainable):
    """A trial whose process may be reused."""

    def setup(self, config: Json) -> None:
        torch.set_num_threads(config["cores"])
        self.request = json.loads(Path(config["request"]).read_text())
        self.reset_config(config)

    def reset_config(self, new_config: Json) -> bool:
        self.began, self.seconds = time.time(), 0.0
        self.begin(new_config["task"])
        return True

    def begin(self, task: Json) -> None:
        raise NotImplementedError

    def work(self) -> Json:
        raise NotImplementedError

    def step(self) -> Json:
        began = time.perf_counter()
        result = self.work()
        self.seconds += time.perf_counter() - began
        return {**result, "began": self.began, "seconds": self.seconds}


class Trunk(Reused):
    """A trunk: an epoch a step."""

    def begin(self, task: Json) -> None:
        self.task, self.epoch, request = task, 0, self.request
        recipe, variant = request["recipe"], request["variants"][task["variant"]]
        torch.manual_seed(task["seed"])
        self.net = build(request, task["variant"], variant["weights"])
        augmented = create_transform(
            task["train_res"], is_training=True, color_jitter=None,  # type: ignore[arg-type]
            scale=tuple(recipe["crop_scale"]), hflip=recipe["hflip"], **prepared(variant),
        )  # fmt: skip
        files = Files(request, "train", augmented)
        self.batches = loader(files, request, batch=recipe["batch_size"], train=True)
        self.optimizer = timm.optim.create_optimizer_v2(
            self.net, "adamw", lr=task["lr"], weight_decay=task["weight_decay"], fused=True
        )
        steps, warmup = len(self.batches), recipe["warmup_epochs"]
        first, total = round(float(warmup) * steps), recipe["epochs"] * steps

        def factor(step: int) -> float:
            if step < first:
                return (step + 1) / (first + 1)
            progress: float = (step - first) / max(1, total - first)
            return 0.5 * (1 + math.cos(math.pi * progress))

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)

    def work(self) -> Json:
        request, task = self.request, self.task
        self.net.train()
        for x, y in self.batches:
            logits = self.net(channels_last(x))
            loss = cross_entropy(logits, y, label_smoothing=task["label_smoothing"])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
        self.epoch += 1
        result: Json = {"epoch": self.epoch, "group": task["group"], "done": False}
        if self.epoch in request["rungs"]:
            hits = [
                count_hits(self.net, eval_files(request, task["variant"], "val", *at), request)
                for at in task["val_at"]
            ]
            result["val"] = max(hits) / len(request["splits"]["val"])
        if self.epoch == request["recipe"]["epochs"]:
            save(self.net.state_dict(), task["weights"])
            result |= {"weights": task["weights"], "done": True}
        return result


class Cell(Reused):
    """A trunk at one test resolution and crop: as it is, and adapted."""

    def begin(self, task: Json) -> None:
        self.task = task
        torch.manual_seed(task["seed"])

    def work(self) -> Json:
        request, task = self.request, self.task
        net = build(request, task["variant"], task["trunk"])
        at = (task["test_res"], task["crop"])
        train, val = (eval_files(request, task["variant"], s, *at) for s in ("train", "val"))
        trunk = copy.deepcopy(net.state_dict())
        untuned = count_hits(net, val, request)
        hits, kept = -1, trunk
        for lr in FIX_LR:
            net.load_state_dict(trunk)
            parameters = [*net.bn2.parameters(), *net.classifier.parameters()]
            optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=1e-4)
            for _ in range(FIX_EPOCHS):
                self._fix_epoch(net, train, optimizer)
                now = count_hits(net, val, request)
                if now > hits:
                    hits, kept = now, copy.deepcopy(net.state_dict())
        save(kept, task["weights"])
        nets = [(untuned, task["trunk"]), (hits, task["weights"])]
        rows = [
            {**task, "arm": arm, "val_hits": count, "weights": path}
            for arm, (count, path) in zip(ARMS, nets, strict=True)
        ]
        return {"rows": rows, "done": True}

    def _fix_epoch(self, net: Any, train: Files, optimizer: torch.optim.Optimizer) -> None:
        net.eval()
        net.bn2.train()
        for x, y in loader(train, self.request, batch=FIX_BATCH, train=True):
            with torch.no_grad():
                maps = net.conv_head(net.blocks(net.bn1(net.conv_stem(channels_last(x)))))
            logits = net.classifier(net.global_pool(net.bn2(maps)))
            optimizer.zero_grad(set_to_none=True)
            cross_entropy(logits, y).backward()
            optimizer.step()
