"""The parts of a net where FixRes divides it: its last norm, its global pooling, its classifier.

image -> body -> [linear] -> norm -> mix -> pool -> neck -> classifier

The body ends before the last norm, or before the 1 x 1 convolution (linear) that makes its input.
What is needed after the norm besides is carried along: of a ResNet, whose last norm lies inside a
residual block, what skips that block. Mix is all from the norm to the pooling, without the norm;
the neck all from there to the classifier. A norm after the pooling, as of ConvNeXt, is in the neck.

Parts are graphs (torch.fx), read off a net's own forward. They run on any net of its architecture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from trainables.models.parts.tensor_names import TensorNames


class NotDividedError(Exception):
    """A net has no such parts; the message says why, to come after the net's name and a colon."""


@dataclass(frozen=True, kw_only=True)
class NetParts:
    """The parts of all nets of an architecture."""

    names: TensorNames
    body: fx.Graph
    """Images -> what linear is given (else the norm, or the pooling), and what is carried along."""
    carried: tuple[int, ...] = ()
    """Channels of each map that is carried along."""
    linear: str | None = None
    norm_after_pool: bool = False
    mix: fx.Graph | None = None
    """The norm's output, and what is carried along -> maps; None: the norm's output are those."""
    pool: str
    neck: fx.Graph | None = None
    """Pooled maps -> the classifier's input; None: they are the same."""
    neck_takes_maps: bool = False
    """Whether the neck is given (N, F, 1, 1), else (N, F)."""
    mixes_channels: bool = False
    """Whether a channel of mix may depend on other channels of the norm's output."""


def run(net: nn.Module, graph: fx.Graph, *inputs: torch.Tensor) -> Any:
    """Run a part of a net's forward."""
    interpreter = fx.Interpreter(net, graph=graph)
    interpreter.extra_traceback = False  # an error is that of the net
    return interpreter.run(*inputs)
