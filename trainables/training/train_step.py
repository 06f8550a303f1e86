"""One optimiser step, on as many micro-batches as the device's memory asks for."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from trainables.data.loader import TrainBatch, normalize_on_device
from trainables.errors import SweepError
from trainables.models.device import autocast
from trainables.models.variants import Preprocessing
from trainables.training.distributed import WorkerGroup

MIN_MICRO_BATCH = 2  # images of a micro-batch: batch norm needs company


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What the net made of some images, before the step; sums over them, on the device."""

    loss: torch.Tensor  # () float32
    hits: torch.Tensor  # () int64


class TrainStep:
    """Takes optimiser steps, each on one whole batch, whatever of it fits into memory at once.

    Where memory runs out, the step is tried again in micro-batches of half the size, and further
    steps are taken so: their gradients are summed, each weighted by its share of the images, so
    that the effective batch stays what it is. Batch norm alone sees the micro-batches: its
    statistics are theirs, and its running ones follow each of them.

    Several workers each do their share of a batch. Their gradients are summed in one piece, after
    all have theirs: where memory runs out in one worker, none is left waiting for it within a
    backward pass (as with DistributedDataParallel), and all try again together.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        preprocessing: Preprocessing,
        *,
        label_smoothing: float,
        device: torch.device,
        group: WorkerGroup,
    ):
        self._group = group
        self._model, self._optimizer, self._preprocessing = model, optimizer, preprocessing
        self._label_smoothing, self._device = label_smoothing, device
        self.micro_batch: int | None = None  # images at once, at most; None: whole shares
        # Where the gradients meet; made beforehand, so that there is room for it when they do.
        count = sum(p.numel() for p in model.parameters()) if group.world_size > 1 else 0
        self._bucket = torch.empty(count, device=device)

    def step(
        self, batch: TrainBatch, images: int, ask: Callable[[], tuple[bool, ...]] = tuple
    ) -> tuple[StepResult, tuple[bool, ...]]:
        """One step of the optimiser, the same for all workers.

        Args:
            batch: this worker's share.
            images: of all shares together.
            ask: called once the gradients are there.

        Returns:
            What the net made of this worker's share; and for each answer of ``ask``, whether any
            worker gave it.

        Raises:
            SweepError: not even the smallest micro-batch fits into memory.
        """
        before = _StateBeforeStep(self._model, self._device)
        while True:
            taken = self._attempt(batch, images)
            failed, *answers = self._group.any_true(taken is None, *ask())
            if taken is not None and not failed:
                break
            self._optimizer.zero_grad(set_to_none=True)
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            self.micro_batch = halved(-(-images // self._group.world_size), self.micro_batch)
            before.restore()
        self._sum_gradients()
        self._optimizer.step()
        return taken, tuple(answers)

    def _sum_gradients(self) -> None:
        """Over all workers. Each has weighted its own by its images."""
        if self._group.world_size == 1:
            return
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        places = self._bucket.split([g.numel() for g in gradients])
        for place, gradient in zip(places, gradients, strict=True):
            place.view(gradient.shape).copy_(gradient)
        self._group.all_reduce_sum(self._bucket)
        for place, gradient in zip(places, gradients, strict=True):
            gradient.copy_(place.view(gradient.shape))

    def _attempt(self, batch: TrainBatch, images: int) -> StepResult | None:
        """Leave the share's gradients; None: memory ran out."""
        self._optimizer.zero_grad(set_to_none=True)
        losses = torch.zeros((), device=self._device)
        hits = torch.zeros((), device=self._device, dtype=torch.int64)
        try:
            for part in parts(len(batch.labels), self.micro_batch):
                y = torch.from_numpy(batch.labels[part]).to(self._device)
                with autocast(self._device):
                    logits = self._model(self._pixels(batch, part))
                loss = F.cross_entropy(logits.float(), y, label_smoothing=self._label_smoothing)
                (loss * (len(y) / images)).backward()
                losses += loss.detach() * len(y)
                hits += (logits.detach().argmax(1) == y).sum()
        except torch.OutOfMemoryError:  # unnamed: its trace would hold on to the memory
            return None
        return StepResult(loss=losses, hits=hits)

    def _pixels(self, batch: TrainBatch, part: slice) -> torch.Tensor:
        x = normalize_on_device(batch.pixels[part], self._preprocessing, self._device)
        flip = torch.from_numpy(batch.flip[part]).to(self._device)
        return torch.where(flip[:, None, None, None], x.flip(-1), x)


class _StateBeforeStep:
    """What a failed attempt changes for good: running statistics, and the generators' places."""

    def __init__(self, model: nn.Module, device: torch.device):
        self._buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        self._device, self._rng = device, rng_state(device)

    def restore(self) -> None:
        with torch.no_grad():
            for buffer, kept in self._buffers:
                buffer.copy_(kept)
        set_rng_state(self._rng, self._device)


def parts(images: int, most: int | None) -> list[slice]:
    """A batch in micro-batches of about ``most`` images, equal but for one image.

    None has fewer than LEAST, but that of a batch that has fewer itself: an odd batch in
    micro-batches of 2 has one of 3.
    """
    count = max(1, min(-(-images // most), images // MIN_MICRO_BATCH)) if most else 1
    small, more = divmod(images, count)
    ends = itertools.accumulate((small + (i < more) for i in range(count)), initial=0)
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def halved(images: int, most: int | None) -> int:
    """The micro-batch to try after ``most`` (None: all ``images`` at once) was too much.

    Raises:
        SweepError: there is none.
    """
    tried = min(most or images, images)
    if tried <= MIN_MICRO_BATCH:
        raise SweepError(
            f"Memory runs out even with micro-batches of {MIN_MICRO_BATCH} images, the fewest "
            "that batch norm can do with: train at a lower --train-res, leave out the largest "
            "variants, or give trials GPUs with more memory."
        )
    return max(MIN_MICRO_BATCH, -(-tried // 2))


def rng_state(device: torch.device) -> torch.Tensor:
    """Where the CPU's generator stands, and a GPU's where there is one: (S,) uint8 on the CPU."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def set_rng_state(state: torch.Tensor, device: torch.device) -> None:
    """Set both to what :func:`rng_state` gave, as far as it holds them."""
    length = len(torch.get_rng_state())
    torch.set_rng_state(state[:length].clone())  # torch looks at the start of what a view views
    if device.type == "cuda" and len(state) > length:
        torch.cuda.set_rng_state(state[length:].clone(), device)
