"""Count the memory that a forward pass takes, without computing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any
from weakref import WeakSet

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainables.models import backbone, variants


@cache
def peak_mb(variant: str, res: int, classes: int) -> float:
    """Count the peak of one image's forward at ``res`` px, in MB (1e6 bytes) of float32.

    Weights and buffers, and the most that images and maps take at once, on the meta device: no
    memory is taken. Each of PyTorch's operators counts as a kernel of its own. What a kernel takes
    for itself while it runs (workspaces, copies in another layout) and what the allocator keeps
    beyond it are not counted, and a runtime that fuses operators takes less.
    """
    with torch.device("meta"):
        model = backbone.build(variants.get(variant), classes).eval()
    return peak_bytes(model, torch.empty(1, 3, res, res, device="meta")) / 1e6


def peak_bytes(model: torch.nn.Module, x: torch.Tensor) -> int:
    """Count weights and buffers, and the most that tensors take at once in a forward of ``x``.

    ``x`` itself is included. Model and ``x`` are on the same device, which may be meta.
    """
    held = {t.untyped_storage() for t in (*model.parameters(), *model.buffers())}
    live = _LiveStorage(held, x)
    with torch.no_grad(), live:
        model(x)
    return sum(storage.nbytes() for storage in held) + live.peak


class _LiveStorage(TorchDispatchMode):
    """Follow the storages that operators make, for as long as anything refers to them.

    Views and results in place share their input's storage, which is counted already.
    """

    def __init__(self, held: set[torch.UntypedStorage], x: torch.Tensor):
        super().__init__()  # type: ignore[no-untyped-call]
        self._held = held
        self._live = WeakSet([x.untyped_storage()])
        self.peak = x.untyped_storage().nbytes()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        made = {t.untyped_storage() for t in tree_leaves(out) if isinstance(t, torch.Tensor)}
        self._live |= made - self._held
        self.peak = max(self.peak, sum(storage.nbytes() for storage in self._live))
        return out
