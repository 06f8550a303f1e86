"""Run a net forward in training: as it is, compiled, or replayed as a CUDA graph.

Compiled, operators between convolutions are fused. A graph launches a whole pass at once, which
spares the host the time of hundreds of launches; its tensors have one shape and stay where they
are. Neither changes what is computed, but for rounding. The optimiser's step is no part of either:
fused, it is a few launches, and reads the learning rate of each step as it comes.

On an NVIDIA H200 a graph trained B0 at 128 px 4.8 times as fast in batches of 32 images, and the
largest nets no faster; compiled, 1.1 times, after a minute (docs/measured.md). What fails is told,
and the net goes on as it is.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import nn

from trainables.models.device import autocast, free_cache
from trainables.models.speed_ups import OF_THE_FORWARD, SpeedUp

log = logging.getLogger("fixres")

Forward = Callable[[torch.Tensor], torch.Tensor]
# Dropout draws from PyTorch's own generators, as in the net that is not compiled.
_INDUCTOR_OPTIONS: dict[str, str | int | bool | Callable[..., object]] = {"fallback_random": True}


class TrainingForward:
    """The forward pass of a net in training; the net itself keeps its tensors and their names."""

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        speed_ups: Sequence[SpeedUp] = (),
        *,
        workers: int = 1,
    ):
        """Choose how the net runs.

        Args:
            model: on the device.
            speed_ups: what is asked for; those that are the process's are nothing here.
            workers: that share each batch. Several exchange what batch norm needs amid the pass,
                which is neither compiled nor recorded.
        """
        self._model, self._device = model, device
        self._asked = next((name for name in speed_ups if name in OF_THE_FORWARD), None)
        self._trouble = ""
        self._graph: Forward | None = None
        self._shape: torch.Size | None = None  # of the batches that the graph takes
        self._compiled: Forward | None = None
        if workers > 1 and self._asked:
            self._trouble = "not by several workers"
        elif self._asked == "compile":
            compiled = torch.compile(model, dynamic=False, options=_INDUCTOR_OPTIONS)
            self._compiled = cast(Forward, compiled)

    @property
    def in_words(self) -> str:
        """What speeds the pass up, or why it does not; empty: nothing was asked for."""
        return f"{self._asked}: {self._trouble}" if self._trouble else self._asked or ""

    def prepare(self, x: torch.Tensor) -> bool:
        """Record the graph on the first whole batch, where one is asked for.

        It holds its memory for as long as it is there: what else training keeps is to be there
        before. Where there is no room for it, it is not tried again.

        Args:
            x: normalised images, as all batches are to come.

        Returns:
            Whether the net was run for that: its running statistics have followed ``x``, and
            generators have gone on.
        """
        if self._asked != "cuda_graph" or self._trouble or self._graph is not None:
            return False
        net = _Uncached(self._model, self._device)
        try:
            # Threads take memory of the host for batches meanwhile, which its own mode forbids.
            graph = torch.cuda.make_graphed_callables(
                net, (x.clone(),), capture_error_mode="thread_local"
            )
            self._graph, self._shape = cast(Forward, graph), x.shape
        except RuntimeError as error:
            self._tell(error)
        if self._graph is None:  # outside, as the error keeps what it was about
            self._free()
        return True

    def record_anew(self) -> None:
        """Have a later whole batch record the graph again, as another part of the net trains."""
        if self._graph is not None:
            self._graph = self._shape = None
            self._free()

    def free_graph(self) -> bool:
        """Go on without a graph, as memory has run out; say whether there was one."""
        if self._graph is None:
            return False
        self.record_anew()
        self._tell(torch.OutOfMemoryError("memory ran out beside it"))
        return True

    def _free(self) -> None:
        """Free a graph that is not used any more: PyTorch's refer to themselves."""
        gc.collect()
        free_cache(self._device)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the logits of normalised images."""
        if self._graph is not None and x.shape == self._shape:
            return self._graph(x)
        run = self._model if self._compiled is None else self._compiled
        logits: torch.Tensor = run(x)
        return logits

    def give_up(self, error: Exception) -> bool:
        """Go on with the net as it is, as a step has failed; say whether that is a change."""
        if self._compiled is None and self._graph is None:
            return False
        self._compiled = self._graph = None
        self._tell(error)
        return True

    def _tell(self, error: Exception) -> None:
        self._trouble = f"not used, {type(error).__name__}"
        why = str(error).strip().partition("\n")[0]
        log.warning("`speed_ups` %s (%s): the net trains without it", self.in_words, why)


class _Uncached(nn.Module):
    """A net under autocast that casts its weights in each pass, as a recorded one has to."""

    def __init__(self, model: nn.Module, device: torch.device):
        super().__init__()
        self._model, self._device = model, device

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the net."""
        with autocast(self._device, cached=False):
            logits: torch.Tensor = self._model(x)
        return logits
