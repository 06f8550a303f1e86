"""Count what a net costs to serve: parameters, multiply-adds and memory, without running it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trainables.errors import UserError
from trainables.models import backbone, variants
from trainables.profiling.inference_memory import peak_mb

PARAMETER_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The costs of serving one image."""

    params_m: float  # millions
    gmacs: float  # billions of multiply-adds in convolutions and linear layers
    activations_m: float  # millions of numbers that these layers leave, as timm counts them
    memory_mb: float  # 1e6 bytes at the peak, float32, without the kernels' own workspaces
    layers: int = 0  # convolutions and linear layers that one image passes

    def of_passes(self, passes: int) -> Cost:
        """Give the costs of an image that passes several times, in one batch.

        What of the memory are no parameters is what maps take, but for the norms' statistics.
        """
        return replace(
            self,
            gmacs=passes * self.gmacs,
            activations_m=passes * self.activations_m,
            memory_mb=passes * self.memory_mb - (passes - 1) * PARAMETER_BYTES * self.params_m,
        )


@cache
def cost(variant: str, res: int, classes: int) -> Cost:
    """Count the costs of a variant at ``res`` px, on the meta device: no arithmetic, no memory.

    Raises:
        UserError: the net cannot be run at so few pixels.
    """
    with torch.device("meta"):
        model = backbone.build(variants.get(variant), classes).eval()
    image = torch.empty(1, 3, res, res, device="meta")
    made: list[int] = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda _layer, _given, out: made.append(out.numel()))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        try:
            model(image)
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise UserError(
                f"`variant` {variant} does not run at {res} px ({reason}): give larger resolutions."
            ) from None
    params = sum(p.numel() for p in model.parameters())
    return Cost(
        params_m=params / 1e6,
        gmacs=counter.get_total_flops() / 2e9,
        activations_m=sum(made) / 1e6,
        memory_mb=peak_mb(variant, res, classes),
        layers=len(made),
    )
