"""Count the GPU memory that a trunk's training or a cell takes, without a GPU.

A training step has its peak where the backward pass begins: all that the forward saved for it is
there, beside weights, gradients and the optimiser's state. What is saved is counted on the meta
device (no arithmetic, no memory, at any batch size) as :mod:`.inference_memory` counts a forward:
without the operators' workspaces and what the allocator keeps. :func:`needed_gb` adds those.

In bf16 the whole net is cast, which stands for autocast: maps take two bytes a number either way.
Autocast keeps the weights in float32 beside their copies; they are added.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch.nn.functional import cross_entropy

from trainables.fixres.heads import MAX_LOGITS_AT_ONCE
from trainables.models import backbone, variants
from trainables.models.backbone import Net
from trainables.models.device import CUDA_CONTEXT_BYTES
from trainables.models.map_shape import map_shape
from trainables.profiling.inference_memory import peak_bytes

MapPrecision = Literal["bf16", "float32"]  # of what a net is counted in: fp16 takes what bf16 takes

FLOAT, DOUBLE = 4, 8  # bytes
MAP_NUMBER_BYTES: dict[MapPrecision, int] = {"bf16": 2, "float32": FLOAT}
MOMENTS = {"adamw": 2, "sgd": 1}  # running averages that an optimiser keeps of each gradient

# What the count leaves out. With these, it separates the batches that ran on a 24 GB card from
# those that did not, for B0 to B8, L2 and the Lite nets: benchmarks/memory.py.
OVERHEAD_FACTOR = 1.10  # for fragments, copies in another layout, workspaces


def needed_gb(counted: float) -> float:
    """Convert ``counted`` bytes to the GB (1e9 bytes) that they take of a GPU, overheads added."""
    return (OVERHEAD_FACTOR * counted + CUDA_CONTEXT_BYTES) / 1e9


@cache
def step_bytes(
    variant: str,
    res: int,
    *,
    batch: int,
    classes: int,
    precision: MapPrecision,
    optimizer: str,
    ema: bool,
    workers: int = 1,
) -> int:
    """Count the peak of one training step of ``batch`` images at ``res`` px.

    Args:
        batch: of one worker.
        optimizer: "adamw" or "sgd", with momentum.
        ema: whether a moving average of the weights is kept.
        workers: of the trial; several keep all gradients a second time, in one piece for their sum.
    """
    model = _net(variant, classes, precision).train()
    x = _images(batch, res, precision)
    weights = sum(p.numel() for p in model.parameters())
    gradients = FLOAT * weights
    state = gradients + FLOAT * weights + _kept_bytes(weights, optimizer, ema=ema, workers=workers)
    copies = 0 if precision == "float32" else MAP_NUMBER_BYTES[precision] * weights
    return state + copies + saved_bytes(model, x) + FLOAT * x.numel()


def saved_bytes(model: torch.nn.Module, x: torch.Tensor) -> int:
    """Count what a forward of ``x`` and its loss save for the backward pass.

    The model's parameters and buffers and ``x`` itself are not included. The model stays in its
    mode; model and ``x`` are on the same device, which may be meta.
    """
    held = {t.untyped_storage() for t in (x, *model.parameters(), *model.buffers())}
    saved: set[torch.UntypedStorage] = set()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.add(tensor.untyped_storage())
        return tensor

    labels = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        cross_entropy(model(x).float(), labels)
    return sum(storage.nbytes() for storage in saved - held)


@cache
def scoring_bytes(
    variant: str,
    res: int,
    *,
    batch: int,
    classes: int,
    precision: MapPrecision,
    optimizer: str,
    ema: bool,
    workers: int = 1,
) -> int:
    """Count the peak of scoring ``batch`` images at ``res`` px in the midst of a training.

    Beside a forward pass there is what the training goes on with, but for gradients.

    Args:
        batch, optimizer, ema, workers: as of :func:`step_bytes`.
    """
    weights = sum(p.numel() for p in _net(variant, classes, precision).parameters())
    forward = forward_bytes(variant, res, batch=batch, classes=classes, precision=precision)
    return forward + _kept_bytes(weights, optimizer, ema=ema, workers=workers)


def _kept_bytes(weights: int, optimizer: str, *, ema: bool, workers: int) -> int:
    """Count what a training keeps of each weight from step to step, beside the weight itself."""
    return FLOAT * weights * (MOMENTS[optimizer] + ema + (workers > 1))


@cache
def forward_bytes(
    variant: str, res: int, *, batch: int, classes: int, precision: MapPrecision
) -> int:
    """Count the peak of a forward of ``batch`` images at ``res`` px with nothing saved."""
    model = _net(variant, classes, precision).eval()
    x = _images(batch, res, precision)
    # Images and weights stay in float32 beside their copies in a lower precision.
    originals = 0 if precision == "float32" else FLOAT * (x.numel() + _state_numbers(model))
    return originals + peak_bytes(model, x)


def cell_bytes(
    variant: str,
    res: int,
    *,
    batch: int,
    classes: int,
    precision: MapPrecision,
    features: int,
    settings: int,
    has_slopes: bool = False,
) -> int:
    """Count the peak of a cell at ``res`` px.

    It is that of its pass, of the last batch norm's statistics, or of the fit of its classifiers,
    whichever is largest. The maps of the pass are on disk.

    Args:
        batch: images at a time.
        features: images whose features are kept on the device; each view of an image counts.
        settings: classifiers that are fitted together.
        has_slopes: the features of train are streamed, and made with their slopes.
    """
    model, shape = _net(variant, classes, precision), map_shape(variant, res)
    weights, width = FLOAT * _state_numbers(model), backbone.classifier_of(model).in_features
    positions = batch * shape.normed * shape.side**2
    # The maps, and two copies to sum up.
    norm = positions * (MAP_NUMBER_BYTES[precision] + 2 * DOUBLE)
    if has_slopes:  # The norm's input and output, the latter twice more, and two slopes of each.
        norm = max(norm, positions * (MAP_NUMBER_BYTES[precision] + 6 * FLOAT))
    heads = settings * classes * width * (2 + MOMENTS["adamw"])  # weights, gradients, moments
    fit = FLOAT * (features * width + heads + MAX_LOGITS_AT_ONCE)
    forward = forward_bytes(variant, res, batch=batch, classes=classes, precision=precision)
    return max(forward, weights + norm, weights + fit)


@cache
def _net(variant: str, classes: int, precision: MapPrecision) -> Net:
    """Build the variant on the meta device."""
    with torch.device("meta"):
        model = backbone.build(variants.get(variant), classes)
    return model.bfloat16() if precision == "bf16" else model


def _images(batch: int, res: int, precision: MapPrecision) -> torch.Tensor:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return torch.empty(batch, 3, res, res, device="meta", dtype=dtype)


def _state_numbers(model: Net) -> int:
    """Count the numbers in parameters and buffers."""
    return sum(t.numel() for t in (*model.parameters(), *model.buffers()))
