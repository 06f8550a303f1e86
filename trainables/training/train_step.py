"""One optimiser step, on as many micro-batches as the device's memory asks for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.amp import GradScaler
from torch.nn.functional import cross_entropy

from trainables.data.loader import TrainBatch, normalize_on_device
from trainables.errors import SweepError
from trainables.models.device import autocast, precision_of
from trainables.models.frozen_norms import MIN_NORMED, frozen_norms
from trainables.models.memory_fit import MemoryFit
from trainables.models.out_of_memory import running_out_told
from trainables.models.speed_ups import SpeedUp
from trainables.models.training_forward import TrainingForward
from trainables.models.variants import Preprocessing
from trainables.models.whole_batch import WholeBatch
from trainables.training.distributed import WorkerGroup

MIN_MICRO_BATCH = 2  # images: batch norm, where it does, estimates a variance from them

_TOO_LARGE = (
    f"Memory runs out even with micro-batches of {MIN_MICRO_BATCH} images, the fewest "
    "that are tried: train at a lower `train_res`, leave out the largest "
    "variants, or give trials GPUs with more memory."
)

_NO_ROOM_FOR_OPTIMIZER = (
    "Memory runs out for what the optimiser keeps of each weight, whatever the `batch_size`: leave "
    "out the largest variants, train with `optimizer` sgd, or give trials GPUs with more memory."
)


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Loss and hits of a share of a batch, before the step; sums over its images, on the device.

    Where classes have weights, the loss is the share's part of the batch's weighted mean, times the
    images of the batch.
    """

    loss: torch.Tensor  # () float32
    hits: torch.Tensor  # () int64


class TrainStep:
    """Takes optimiser steps, each on one whole batch, as much of it at once as fits into memory.

    Where memory runs out, the step is tried again in micro-batches of half the size, and the steps
    after it are taken so (until :meth:`try_more`): their gradients are summed, each weighted by its
    share of the images, so that the effective batch stays what it is. Batch norm alone sees the
    micro-batches: it normalises by their statistics, and its running ones follow each of them. Of
    less than ``MIN_NORMED`` images, in all workers together, there are no statistics worth the
    name: batch norms then stand still (:mod:`.frozen_norms`).

    Several workers each do their share of a batch; batch norm and dropout see all shares as one
    batch. Where memory runs out in one worker, no other waits for it, and all try again together.
    Gradients are summed in one piece, once all workers have theirs. DistributedDataParallel sums
    them within the backward pass, which could hide a few hundredths of a step here; but batch
    norm's sums, which the same pass waits for layer by layer, would queue behind those of
    gradients, and a step could not be given up any more once some of it is summed.

    The forward runs under autocast, in the arithmetic of the device (:mod:`.device`). Loss,
    gradients and weights are float32. In fp16, whose range is short, the loss is scaled, and a
    step whose gradients are not finite is left out (torch.amp.GradScaler).

    Classes may have weights in the loss, which is then that of torch.nn.CrossEntropyLoss of the
    whole batch: its sum over the batch's images, divided by the sum of their weights. An image that
    is mixed of two is as much an image of either as it has of it.
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
        class_weights: np.ndarray | None = None,
        micro_batch: int | None = None,
        loss_scale: Mapping[str, Any] | None = None,
        clip_grad: float = 0.0,
        speed_ups: Sequence[SpeedUp] = (),
    ):
        """Prepare steps of a model that is on the device, in training mode.

        Args:
            class_weights: (C,), what an image of each class weighs in the loss; None: all alike.
            micro_batch: images at once, at most, as an earlier training found; None: whole shares.
            loss_scale: as an earlier training left it; see :attr:`loss_scale`.
            clip_grad: the norm that gradients, of all parameters together, are scaled down to where
                theirs is larger; 0: they stay as they are.
            speed_ups: of the forward pass (:mod:`.training_forward`).
        """
        self._group = group
        self._model, self._optimizer, self._preprocessing = model, optimizer, preprocessing
        self._label_smoothing, self._device = label_smoothing, device
        self._class_weights, self._weight = class_weights, None
        if class_weights is not None:
            self._weight = torch.tensor(class_weights, dtype=torch.float32, device=device)
        self._memory_fit = MemoryFit(
            device, minimum=MIN_MICRO_BATCH, error=_TOO_LARGE, batch_size=micro_batch
        )
        self._whole_batch = WholeBatch(model, group)
        self._forward = TrainingForward(model, device, speed_ups, workers=group.world_size)
        self._has_stepped = False  # with these parts: the optimiser has all that it keeps of them
        self._clip_grad = clip_grad
        self._scaler = GradScaler(device.type, enabled=precision_of(device) == "fp16")
        if loss_scale and self._scaler.is_enabled():
            self._scaler.load_state_dict(dict(loss_scale))
        self._before = _StateBeforeStep(model, device)
        # All gradients in one piece, for their sum. Made beforehand: then there is room for it.
        count = sum(p.numel() for p in model.parameters()) if group.world_size > 1 else 0
        self._gradient_buffer = torch.empty(count, device=device)

    @property
    def micro_batch(self) -> int | None:
        """Images at once, at most; None: whole shares."""
        return self._memory_fit.batch_size

    @property
    def speed_ups(self) -> str:
        """What speeds the forward pass up, or why not, in words; empty: nothing was asked for."""
        return self._forward.in_words

    @property
    def loss_scale(self) -> dict[str, Any]:
        """What the loss is scaled by, and how that is adapted; empty: it is not."""
        state: dict[str, Any] = self._scaler.state_dict()
        return state

    def freezes_norms(self, images: int) -> bool:
        """Whether batch norms stand still, as too little of a split batch is at once in the net.

        Args:
            images: of a whole batch, in all shares together.
        """
        parts = len(micro_batches(images, self.micro_batch, 0, self._group.world_size))
        return parts > 1 and images < MIN_NORMED * parts

    def train_other_parts(self) -> None:
        """Note that other parts of the model train from now on."""
        self._has_stepped = False
        self._forward.record_anew()

    def try_more(self, images: int) -> None:
        """Have the next step take twice as many images at once, if memory has run out before.

        What took the memory may be gone, as a trial on the same GPU. All workers call it at once.

        Args:
            images: of a whole batch, in all shares together.
        """
        self._memory_fit.grow(-(-images // self._group.world_size))

    def step(
        self,
        batch: TrainBatch,
        images: int,
        local_flags: Callable[[], tuple[bool, ...]] = tuple,
    ) -> tuple[StepResult, tuple[bool, ...]]:
        """Take one step of the optimiser, the same in all workers.

        Args:
            batch: this worker's share.
            images: of all shares together.
            local_flags: called once the gradients are there; this worker's values of flags that
                the workers are to agree on.

        Returns:
            Loss and hits of this worker's share; and for each flag, whether any worker has it.

        Raises:
            SweepError: not even the smallest micro-batch fits into memory, or the optimiser's own.
        """
        self._before.keep()
        weight = self._weight_of_all(batch, images)
        while True:
            still = frozen_norms(self._model) if self.freezes_norms(images) else nullcontext()
            with still:
                result = self._attempt(batch, images, weight)
            failed, *flags = self._group.any_true(result is None, *local_flags())
            if result is not None and not failed:
                break
            self._optimizer.zero_grad(set_to_none=True)
            self._memory_fit.halve(-(-images // self._group.world_size))
            self._before.restore()
        self._sum_gradients()
        self._update()
        return result, tuple(flags)

    def _update(self) -> None:
        """Have the optimiser change the weights; in its first step it takes memory of its own."""
        try:
            with running_out_told():
                if self._clip_grad:
                    self._scaler.unscale_(self._optimizer)
                    nn.utils.clip_grad_norm_(self._model.parameters(), self._clip_grad)
                self._scaler.step(self._optimizer)
                self._scaler.update()
            self._has_stepped = True
            return
        except torch.OutOfMemoryError:  # not bound to a name: its trace would keep the memory
            pass
        raise SweepError(_NO_ROOM_FOR_OPTIMIZER)

    def _sum_gradients(self) -> None:
        """Sum gradients over all workers; each has weighted its own by its images."""
        if self._group.world_size == 1:
            return
        gradients = [p.grad for p in self._model.parameters() if p.grad is not None]
        sizes = [g.numel() for g in gradients]  # Where parts are frozen, some of the room is left.
        buffer = self._gradient_buffer[: sum(sizes)]
        parts = torch.split(buffer, sizes)
        # Laid out as the gradients are: else each is copied in a launch of its own.
        views = [
            part.as_strided(g.shape, g.stride(), part.storage_offset())
            for part, g in zip(parts, gradients, strict=True)
        ]
        torch._foreach_copy_(views, gradients)
        self._group.all_reduce_sum(buffer)
        torch._foreach_copy_(gradients, views)

    def _weight_of(self, labels: torch.Tensor) -> float:
        """Sum the weights of images: without any, their number."""
        if self._class_weights is None:
            return len(labels)
        return float(self._class_weights[labels.numpy()].sum())

    def _weight_of_all(self, batch: TrainBatch, images: int) -> float:
        """Sum the weights of all workers' images; this worker has its share of the batch alone."""
        if self._class_weights is None:
            return images
        weights = [share * self._weight_of(labels) for labels, share in batch.targets]
        own = torch.tensor([sum(weights)], dtype=torch.float64)
        return self._group.all_reduce_sum(own).item()

    def _attempt(self, batch: TrainBatch, images: int, weight: float) -> StepResult | None:
        """Leave the share's gradients in the model; None: memory ran out.

        Args:
            images, weight: of all shares together.
        """
        ranks = range(self._group.world_size)
        shares = [micro_batches(images, self.micro_batch, rank, len(ranks)) for rank in ranks]
        while True:
            try:
                with running_out_told():
                    return self._forward_and_back(batch, images, weight, shares)
            except torch.OutOfMemoryError:  # not bound to a name: its trace would keep the memory
                ran_out = True
            except Exception as error:
                if not self._forward.give_up(error):
                    raise
                ran_out = False
            # Here, as the error kept what it was about. A graph keeps memory for whole batches.
            if ran_out and not self._forward.free_graph():
                self._whole_batch.give_up(len(shares[self._group.rank]))
                return None
            self._before.restore()

    def _forward_and_back(
        self, batch: TrainBatch, images: int, weight: float, shares: list[list[slice]]
    ) -> StepResult:
        """Do the work of :meth:`_attempt`.

        Args:
            shares: the micro-batches of each worker's share.
        """
        self._optimizer.zero_grad(set_to_none=True)
        losses = torch.zeros((), device=self._device)
        hits = torch.zeros((), device=self._device, dtype=torch.int64)
        own_parts, pixels = shares[self._group.rank], batch.tensors[0]
        self._whole_batch.begin_attempt()
        for number, part in enumerate(own_parts):
            parts = (share[number] for share in shares)
            self._whole_batch.begin_pass(sum(p.stop - p.start for p in parts))
            x = normalize_on_device(pixels[part], self._preprocessing, self._device)
            if self._has_stepped and len(own_parts) == 1 and self._forward.prepare(x):
                self._before.restore()
            with autocast(self._device):
                logits = self._forward(x)
            loss, part_hits = self._judged(logits, batch, part, weight)
            torch.autograd.backward(self._scaler.scale(loss))
            losses += loss.detach() * images
            hits += part_hits
        return StepResult(loss=losses, hits=hits)

    def _judged(
        self, logits: torch.Tensor, batch: TrainBatch, part: slice, weight: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Judge a part of the batch: its part of the batch's loss, and its hits.

        A mixed image counts for each of its labels as its share of an image of that label; it is
        hit by the label that it has more of.

        Args:
            weight: of the whole batch.
        """
        losses, most = [], max(share for _, share in batch.targets)
        for (labels, share), there in zip(batch.targets, batch.tensors[1:], strict=True):
            y = there[part].to(self._device, non_blocking=True)
            loss = cross_entropy(
                logits.float(), y, self._weight, label_smoothing=self._label_smoothing
            )
            losses.append(loss * (share * self._weight_of(labels[part]) / weight))
            if share == most:
                hits = (logits.detach().argmax(1) == y).sum()
        return sum(losses[1:], losses[0]), hits


class _StateBeforeStep:
    """What a failed attempt changes for good: running statistics, and random generators' states.

    It is kept before every step, as memory may run out in any. Buffers of one dtype are copied
    together, into memory that is there: one by one they would be an eighth of a step's launches.
    """

    def __init__(self, model: nn.Module, device: torch.device):
        by_dtype: dict[torch.dtype, list[torch.Tensor]] = {}
        for buffer in model.buffers():
            by_dtype.setdefault(buffer.dtype, []).append(buffer)
        self._buffers = [(own, [b.clone() for b in own]) for own in by_dtype.values()]
        self._device, self._rng = device, rng_state(device)

    def keep(self) -> None:
        for own, kept in self._buffers:
            torch._foreach_copy_(kept, own)
        self._rng = rng_state(self._device)

    def restore(self) -> None:
        with torch.no_grad():
            for own, kept in self._buffers:
                torch._foreach_copy_(own, kept)
        set_rng_state(self._rng, self._device)


def micro_batches(images: int, most: int | None, rank: int = 0, world: int = 1) -> list[slice]:
    """Split a worker's share of a batch into micro-batches of about ``most`` images.

    They are equal but for one image, and as many in every worker. None has fewer than
    ``MIN_MICRO_BATCH``, unless the whole share has: an odd one in micro-batches of 2 has one of 3.
    Without ``most`` the share stays whole.

    Args:
        images: of the whole batch, of which each worker has every ``world``-th, from its rank on.
    """
    share, largest, smallest = len(range(rank, images, world)), -(-images // world), images // world
    count = max(1, min(-(-largest // most), smallest // MIN_MICRO_BATCH)) if most else 1
    smaller, larger_ones = divmod(share, count)
    ends = itertools.accumulate((smaller + (i < larger_ones) for i in range(count)), initial=0)
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def rng_state(device: torch.device) -> torch.Tensor:
    """Read the state of the CPU's random generator, and of a GPU's: (S,) uint8 on the CPU."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state(device))
    return torch.cat(states)


def set_rng_state(state: torch.Tensor, device: torch.device) -> None:
    """Set the generators to what :func:`rng_state` gave.

    A state from a machine without a GPU leaves a GPU's generator alone, and the reverse.
    """
    length = len(torch.get_rng_state())
    # Cloned, as torch reads the storage that a view starts in from its beginning.
    torch.set_rng_state(state[:length].clone())
    if device.type != "cpu" and len(state) > length:
        torch.get_device_module(device).set_rng_state(state[length:].clone(), device)
