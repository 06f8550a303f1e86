"""Have the shares of a batch, each in a worker of its own, go through a net as one batch.

Batch norm normalises by the statistics of all shares, and dropout masks them as it masks the whole
batch: so several workers come to what one does, up to rounding. torch.nn.SyncBatchNorm does so on
GPUs alone, and where memory runs out in one worker, the others wait for it for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from timm.layers import DropPath
from timm.layers.norm_act import BatchNormAct2d
from torch import nn
from torch.nn.functional import batch_norm, dropout

from trainables.models.parts.dividing import parts_of


class Group(Protocol):
    """A worker among those that share a batch."""

    @property
    def rank(self) -> int:
        """Its number: its share is every ``world_size``-th image, from this one on."""

    @property
    def world_size(self) -> int:
        """How many workers there are."""

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all workers, in place."""


class WholeBatch:
    """What the workers exchange in forward and backward passes of a net in training.

    All exchange sums of one size, in the order of the layers: so a worker whose memory has run out
    can go through the rest of them with nothing, and no other waits for it.
    """

    def __init__(self, model: nn.Module, group: Group):
        """Have the net see whole batches from now on, in training; alone, it does already."""
        self._group = group
        self._norms: list[_WholeBatchNorm] = []
        self._made = 0  # exchanges of this attempt
        self._images = 0  # of all shares, in the pass under way
        if group.world_size == 1:
            return
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                self._norms.append(_WholeBatchNorm(module, self))
                model.set_submodule(name, self._norms[-1])
            elif isinstance(module, DropPath):
                model.set_submodule(name, _WholeBatchDropPath(module.drop_prob, self))
            elif type(module) is nn.Dropout and module.p:
                model.set_submodule(name, _WholeBatchDropout(module.p, self))
        self._width = 2 * max((norm.num_features for norm in self._norms), default=0) + 1
        self._drop_rate = float(getattr(model, "drop_rate", 0.0))
        has_module = any(isinstance(module, _WholeBatchDropout) for module in model.modules())
        if self._drop_rate and not has_module:  # then the net's forward drops by this rate
            model.drop_rate = 0.0  # type: ignore[assignment]
            head = model.get_submodule(parts_of(model).names.classifier)
            head.register_forward_pre_hook(self._drop)

    def begin_attempt(self) -> None:
        """Begin the passes of a step, for the first time or again."""
        self._made = 0

    def begin_pass(self, images: int) -> None:
        """Begin a forward pass, and its backward pass, on so many images of all shares."""
        self._images = images

    def give_up(self, passes: int) -> None:
        """Take part, with nothing, in what is left of the exchanges of an attempt.

        Args:
            passes: forward and backward, of the whole attempt.
        """
        exchanges = 2 * passes * sum(norm.training for norm in self._norms)
        while self._made < exchanges:
            self.sum(torch.zeros(0, device=self._norms[0].weight.device))

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum (n,) numbers over all workers, in float64."""
        buffer = torch.zeros(self._width, dtype=torch.float64, device=values.device)
        buffer[: len(values)] = values
        self._made += 1
        return self._group.all_reduce_sum(buffer)[: len(values)]

    def moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Find mean, variance (C,) and count of all shares' maps (N, C, h, w), in float64."""
        mean, var = (part.double() for part in torch.batch_norm_update_stats(x, None, None, 0.0))
        count = x.numel() // x.shape[1]
        own = torch.cat([mean * count, (var + mean**2) * count, mean.new_tensor([count])])
        total = self.sum(own)
        mean, square = total[:-1].div(total[-1]).chunk(2)
        # Where others have given up, this is nonsense that may be negative; so is then the attempt.
        return mean, (square - mean**2).clamp(min=0), total[-1]

    def masked(
        self, x: torch.Tensor, rows: tuple[int, ...], draw: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Mask this worker's rows by theirs of the mask that one worker would have drawn.

        Args:
            rows: the shape of an image's part of the mask.
            draw: makes the mask of ones (N, *rows) for the N images of all shares.
        """
        mask = draw(x.new_ones(self._images, *rows))
        return x * mask[self._group.rank :: self._group.world_size]

    def dropped(self, x: torch.Tensor, rate: float) -> torch.Tensor:
        """Drop numbers of this worker's rows, as one worker would have dropped them."""
        return self.masked(x, tuple(x.shape[1:]), partial(dropout, p=rate))

    def _drop(self, head: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        (x,) = inputs
        return (self.dropped(x, self._drop_rate),) if head.training else inputs


class _WholeBatchDropPath(DropPath):
    """Has images skip a block as timm's does, those of all shares drawn together."""

    def __init__(self, rate: float, whole: WholeBatch):
        super().__init__(rate)
        self.whole = whole

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Set the rows (N, C, h, w) of images that skip the block to zero, and scale the others."""
        if not self.training:
            return x
        return self.whole.masked(x, (1,) * (x.ndim - 1), super().forward)


class _WholeBatchDropout(nn.Dropout):
    """Drops numbers as torch's does, those of all shares together."""

    def __init__(self, rate: float, whole: WholeBatch):
        super().__init__(rate)
        self.whole = whole

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Set some of (N, ...) to zero, and scale the others."""
        return self.whole.dropped(x, self.p) if self.training else x


class _WholeBatchNorm(nn.BatchNorm2d):
    """A batch norm that, in training, normalises by the statistics of all workers' shares."""

    def __init__(self, norm: nn.BatchNorm2d, whole: WholeBatch):
        """Take the place of a batch norm: what it consists of is shared with it."""
        nn.Module.__init__(self)
        self.__dict__.update(norm.__dict__)
        self.whole, self._own_forward = whole, type(norm).forward
        self._is_activating = isinstance(norm, BatchNormAct2d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Norm and activate maps (N, C, h, w)."""
        if not self.training:
            normed: torch.Tensor = self._own_forward(self, x)
            return normed
        with torch.no_grad():
            mean, var, count = self.whole.moments(x)
            self._follow(mean, var * (count / (count - 1)))
            mean, var = (moment.to(self.weight.dtype) for moment in (mean, var))
        y: torch.Tensor = _Normalised.apply(x, self.weight, self.bias, mean, var, count, self)
        parts: Any = self
        return parts.act(parts.drop(y)) if self._is_activating else y

    def _follow(self, mean: torch.Tensor, var: torch.Tensor) -> None:
        """Have the running statistics follow those of a batch, as torch.nn.BatchNorm2d has them."""
        buffers: Any = self  # all norms of timm's nets have these, and a momentum
        buffers.num_batches_tracked.add_(1)
        for running, moment in ((buffers.running_mean, mean), (buffers.running_var, var)):
            running.lerp_(moment.to(running.dtype), buffers.momentum)


class _Normalised(torch.autograd.Function):
    """Normalise by statistics that all shares have made, so that the gradient is theirs too.

    With x' normalised, g the gradient of the output and sums over all shares' n numbers, that of
    the input is w / std * (g - sum(g) / n - x' * sum(g * x') / n). The first term, and this
    worker's part of the sums, are the gradients of a batch norm in evaluation; the others are again
    a batch norm in evaluation, of other weights.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, *rest: Any) -> Any:
        count, ctx.norm = rest
        ctx.save_for_backward(x, weight, mean, var, count)
        return batch_norm(x, mean, var, weight, bias, False, 0.0, ctx.norm.eps)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        x, weight, mean, var, count = ctx.saved_tensors
        eps = ctx.norm.eps
        to_x, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, var, None, None, False, eps, (True, True, True)
        )
        means = (ctx.norm.whole.sum(torch.cat([to_weight, to_bias])) / count).to(mean.dtype)
        scale = -weight * torch.rsqrt(var + eps)
        to_weights, to_biases = (scale * part for part in means.chunk(2))
        to_x += batch_norm(x, mean, var, to_weights, to_biases, False, 0.0, eps)
        return to_x, to_weight, to_bias, None, None, None, None
