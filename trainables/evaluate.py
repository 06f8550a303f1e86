"""Score a model. No accuracy without its split and sample size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from trainables.transforms import to_device
from trainables.variants import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Score:
    """Hits among ``n`` images of ``split``; top-5 is top-all where there are fewer classes."""

    split: str
    n: int
    hits1: int
    hits5: int

    @property
    def top1(self) -> float:
        return self.hits1 / self.n

    @property
    def top5(self) -> float:
        return self.hits5 / self.n


def score(logits: torch.Tensor, labels: torch.Tensor, split: str) -> Score:
    """(N, C) logits against (N,) labels."""
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    return Score(
        split=split,
        n=len(labels),
        hits1=int(ranked[:, 0].sum()),
        hits5=int(ranked.any(dim=1).sum()),
    )


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bf16 on a GPU, where it doubles the speed; float32 on a CPU."""
    if device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def batches_of(
    view: np.ndarray, batch_size: int, preprocessing: Preprocessing, device: torch.device
) -> Iterator[torch.Tensor]:
    """A test view as normalised batches on the device, in order."""
    for start in range(0, len(view), batch_size):
        # The view is a read-only memory map; a batch of it is copied once, into writable memory.
        yield to_device(np.array(view[start : start + batch_size]), preprocessing, device)


@torch.inference_mode()
def outputs_of(
    forward: Callable[[torch.Tensor], torch.Tensor],
    view: np.ndarray,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    device: torch.device,
) -> torch.Tensor:
    """(N, R, R, 3) uint8 -> (N, ...) float32 on the CPU: what ``forward`` makes of each batch."""
    batches = batches_of(view, batch_size, preprocessing, device)
    return torch.cat([forward(x).float().cpu() for x in batches])


def logits_of(
    model: nn.Module,
    view: np.ndarray,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    device: torch.device,
) -> torch.Tensor:
    """(N, R, R, 3) uint8 -> (N, C) float32 logits on the CPU, the model in eval mode."""
    model.eval()

    def forward(x: torch.Tensor) -> torch.Tensor:
        with autocast(device):
            logits: torch.Tensor = model(x)
        return logits

    return outputs_of(forward, view, preprocessing, batch_size=batch_size, device=device)
