"""How much memory of a GPU a trunk's training or a cell takes, found without one.

A training step has its peak where the backward pass begins: all that the forward saved for it is
there, beside weights, gradients and the optimiser's state. What is saved is counted on the meta
device (no arithmetic, no memory, at any batch size) as :mod:`.inference_memory` counts a forward:
PyTorch's own operators, without workspaces and without what the allocator keeps. ``needed_gb`` adds
those.

In bf16 the whole net is cast, which stands for autocast: maps take two bytes a number either way.
Autocast keeps the weights in float32 beside their copies; they are added.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F

from trainables.fixres.heads import MAX_LOGITS_AT_ONCE
from trainables.models import backbone, variants
from trainables.models.backbone import Net
from trainables.profiling.inference_memory import peak_bytes
from trainables.transforms.resolution import feature_side

Precision = Literal["bf16", "float32"]

FLOAT, DOUBLE = 4, 8  # bytes
SIZES: dict[Precision, int] = {"bf16": 2, "float32": FLOAT}  # of a number in a map
MOMENTS = {"adamw": 2, "sgd": 1}  # running averages that an optimiser keeps of each gradient

# What the count leaves out. Between them they tell the batches that ran on a 24 GB card from those
# that did not, B0 to B8, L2 and the Lite nets: benchmarks/memory.py.
OVERHEAD_FACTOR = 1.10  # of what is counted: fragments, copies in another layout, workspaces
CUDA_CONTEXT_BYTES = 0.8 * 2**30  # the CUDA context and the libraries' own, bytes


def needed_gb(counted: float) -> float:
    """What ``counted`` bytes really take of a GPU, with what is not counted: GB (1e9 bytes)."""
    return (OVERHEAD_FACTOR * counted + CUDA_CONTEXT_BYTES) / 1e9


@cache
def step_bytes(
    variant: str,
    res: int,
    *,
    batch: int,
    classes: int,
    precision: Precision,
    optimizer: str,
    ema: bool,
) -> int:
    """Peak of one training step of ``batch`` images at ``res`` px.

    Args:
        optimizer: "adamw" or "sgd", with momentum.
        ema: whether a moving average of the weights is kept.
    """
    model = _net(variant, classes, precision).train()
    x = _images(batch, res, precision)
    weights = sum(p.numel() for p in model.parameters())
    state = FLOAT * weights * (2 + MOMENTS[optimizer] + ema)  # with weights and gradients
    copies = 0 if precision == "float32" else SIZES[precision] * weights
    return state + copies + saved_bytes(model, x) + FLOAT * x.numel()


def saved_bytes(model: torch.nn.Module, x: torch.Tensor) -> int:
    """What a forward of ``x`` and its loss save for the backward pass, in the model's mode, its
    parameters and buffers and ``x`` itself not among them; on the device that all are on."""
    held = {t.untyped_storage() for t in (x, *model.parameters(), *model.buffers())}
    saved: set[torch.UntypedStorage] = set()

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.add(tensor.untyped_storage())
        return tensor

    labels = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        F.cross_entropy(model(x).float(), labels)
    return sum(storage.nbytes() for storage in saved - held)


@cache
def forward_bytes(variant: str, res: int, *, batch: int, classes: int, precision: Precision) -> int:
    """Peak of a forward of ``batch`` images at ``res`` px with nothing saved: scoring, a pass."""
    model = _net(variant, classes, precision).eval()
    x = _images(batch, res, precision)
    lower = precision != "float32"
    beside = FLOAT * (x.numel() + _state_numbers(model)) if lower else 0
    return beside + peak_bytes(model, x)


def cell_bytes(
    variant: str,
    res: int,
    *,
    batch: int,
    classes: int,
    precision: Precision,
    features: int,
    settings: int,
) -> int:
    """Peak of a cell at ``res`` px: of its pass, of the last batch norm's statistics, or of the
    fit of its classifiers, whatever is most. The maps of the pass are on disk.

    Args:
        batch: images at a time.
        features: images whose features are kept on the device, each view one more.
        settings: classifiers that are fitted together.
    """
    model = _net(variant, classes, precision)
    weights, width = FLOAT * _state_numbers(model), int(model.num_features)
    positions = batch * width * feature_side(res) ** 2
    norm = positions * (SIZES[precision] + 2 * DOUBLE)  # the maps, and two copies to sum
    heads = settings * classes * width * (2 + MOMENTS["adamw"])  # weights, gradients, moments
    fit = FLOAT * (features * width + heads + MAX_LOGITS_AT_ONCE)
    forward = forward_bytes(variant, res, batch=batch, classes=classes, precision=precision)
    return max(forward, weights + norm, weights + fit)


@cache
def _net(variant: str, classes: int, precision: Precision) -> Net:
    with torch.device("meta"):
        model = backbone.build(variants.get(variant), classes)
    return model.bfloat16() if precision == "bf16" else model


def _images(batch: int, res: int, precision: Precision) -> torch.Tensor:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return torch.empty(batch, 3, res, res, device="meta", dtype=dtype)


def _state_numbers(model: Net) -> int:
    return sum(t.numel() for t in (*model.parameters(), *model.buffers()))
