"""Name what may make training faster on a device, and refuse what the device has not.

Imports no torch: the command line takes its words from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from trainables.errors import UserError

SpeedUp = Literal["compile", "cuda_graph", "cudnn_benchmark", "copy_stream"]
_OF_GPUS: tuple[SpeedUp, ...] = ("cuda_graph", "cudnn_benchmark", "copy_stream")
OF_THE_FORWARD: tuple[SpeedUp, ...] = ("compile", "cuda_graph")


def check_speed_ups(speed_ups: Sequence[SpeedUp], *, on_gpu: bool) -> None:
    """Check that a device can have all of them, together.

    Args:
        on_gpu: whether it is a GPU.

    Raises:
        UserError: it cannot.
    """
    if set(OF_THE_FORWARD) <= set(speed_ups):
        raise UserError(
            "`speed_ups` compile and cuda_graph exclude each other, as both take the forward "
            "pass: give one of them."
        )
    for name in _OF_GPUS:
        if name in speed_ups and not on_gpu:
            raise UserError(
                f"`speed_ups` {name} is of GPUs, and trials compute on the CPU: leave it out, or "
                "give trials GPUs."
            )
