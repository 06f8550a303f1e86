"""Compare the GPU memory that a training step is estimated to need with that of real cards.

    python benchmarks/memory.py

The first table compares with a published one: timm benchmarked training on an RTX 3090 with
automatic mixed precision, channels last, SGD and 1,000 classes, at the largest batch of a ladder
that ran (github.com/huggingface/pytorch-image-models, results/benchmark-train-amp-nhwc-pt112-cu113-
rtx3090.csv); the rung above it (``timm.utils.decay_batch_step``) had run out of memory. For lite0,
which ran at the first rung, no failure is known. A good estimate is below the card's memory for
what ran, and above it for what did not.

Where there is a GPU, a second table has real training steps, and the peak that PyTorch's allocator
held.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from timm.utils import decay_batch_step

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from trainables.models import backbone, variants
from trainables.models.device import CUDA_CONTEXT_BYTES, autocast
from trainables.profiling.training_memory import (
    OVERHEAD_FACTOR,
    needed_gb,
    step_bytes,
)
from trainables.training.optim import make_optimizer

# Memory of an RTX 3090, as PyTorch reports it when it runs out.
CARD_GB = 23.69 * 2**30 / 1e9
FIRST_RUNG = 512
CLASSES = 1000


@dataclass(frozen=True)
class Rung:
    """The largest batch of a variant that ran."""

    variant: str
    res: int  # px
    ran: int  # images

    def __str__(self) -> str:
        return f"{self.variant}@{self.res}"

    @property
    def failed(self) -> int | None:
        """The batch of the rung above, which failed; None: there is no rung above."""
        if self.ran == FIRST_RUNG:
            return None
        above = range(self.ran + 1, 2 * self.ran + 1)
        return max(n for n in above if decay_batch_step(n) == self.ran)

    def needed_gb(self, batch: int) -> float:
        return needed_gb(counted(self.variant, self.res, batch))


LADDER = (
    Rung("b0", 224, 384),
    Rung("b1", 240, 256),
    Rung("b2", 260, 192),
    Rung("b3", 300, 128),
    Rung("b4", 380, 64),
    Rung("b5", 456, 32),
    Rung("b6", 528, 16),
    Rung("b7", 600, 8),
    Rung("b8", 672, 6),
    Rung("l2", 475, 3),
    Rung("l2", 800, 1),
    Rung("lite0", 224, 512),
    Rung("lite1", 240, 256),
    Rung("lite2", 260, 256),
    Rung("lite3", 300, 128),
    Rung("lite4", 380, 64),
)
# Variant, resolution (px) and batch size of the real steps.
POINTS = (
    ("b0", 128, 64),
    ("b0", 224, 128),
    ("b2", 260, 64),
    ("b4", 200, 64),
    ("b5", 456, 12),
    ("lite2", 161, 96),
)


def counted(variant: str, res: int, batch: int) -> int:
    return step_bytes(
        variant,
        res,
        batch=batch,
        classes=CLASSES,
        precision="bf16",
        optimizer="sgd",
        ema=False,
    )


def main() -> None:
    print("\n".join(ladder()))
    print()
    if not torch.cuda.is_available():
        print("No GPU here: nothing to compare with but the published table.")
        return
    print("\n".join(steps()))


def ladder() -> Iterator[str]:
    on_top = f"{OVERHEAD_FACTOR:.2f} times what is counted, and {CUDA_CONTEXT_BYTES / 1e9:.2f}"
    yield f"GB needed ({on_top}) on a card of {CARD_GB:.1f} GB:"
    yield ""
    yield "| variant | px | ran | needed | failed | needed | told apart |"
    yield "|---|---:|---:|---:|---:|---:|---|"
    for rung in LADDER:
        fits = rung.needed_gb(rung.ran)
        row = f"| {rung.variant} | {rung.res} | {rung.ran} | {fits:.1f}"
        if rung.failed is None:
            yield f"{row} | not tried | | {_answer(fits < CARD_GB)} |"
            continue
        fails = rung.needed_gb(rung.failed)
        yield f"{row} | {rung.failed} | {fails:.1f} | {_answer(fits < CARD_GB < fails)} |"


def _answer(right: bool) -> str:
    return "yes" if right else "NO"


def steps() -> Iterator[str]:
    yield f"GB of a real step on {torch.cuda.get_device_name()}:"
    yield ""
    yield "| variant | px | images | counted | allocated | reserved | needed |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for variant, res, batch in POINTS:
        allocated, reserved = real_step(variant, res, batch)
        guess = counted(variant, res, batch)
        yield (
            f"| {variant} | {res} | {batch} | {guess / 1e9:.2f} | {allocated / 1e9:.2f} "
            f"| {reserved / 1e9:.2f} | {needed_gb(guess):.2f} |"
        )


def real_step(variant: str, res: int, batch: int) -> tuple[int, int]:
    """Run three steps; return the peak bytes that the allocator handed out, and that it held."""
    device = torch.device("cuda")
    model = backbone.to_device(backbone.build(variants.get(variant), CLASSES), device).train()
    optimizer = make_optimizer(model, "sgd", lr=1e-3, weight_decay=1e-4)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    x = torch.rand(batch, 3, res, res, device=device).to(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    for _ in range(3):
        with autocast(device):
            logits = model(x)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


if __name__ == "__main__":
    main()
