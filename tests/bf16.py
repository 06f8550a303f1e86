"""The arithmetic of a GPU, on the CPU: what runs under autocast there is worked out in bf16."""

from __future__ import annotations

import sys

import pytest
import torch

from trainables.models import device


def emulate(patch: pytest.MonkeyPatch) -> None:
    """From now on autocast means bf16 on the CPU, in every module that has imported it."""

    def autocast(_: torch.device) -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    for emulated in (autocast, rounded_as_autocast):
        original = getattr(device, emulated.__name__)
        for module in list(sys.modules.values()):
            if getattr(module, emulated.__name__, None) is original:
                patch.setattr(module, emulated.__name__, emulated)


def rounded_as_autocast(tensor: torch.Tensor) -> torch.Tensor:
    """Round a weight as that does."""
    return tensor.to(torch.bfloat16)
