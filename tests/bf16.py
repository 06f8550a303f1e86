"""The arithmetic of a GPU, on the CPU: what runs under autocast there is worked out in bf16."""

from __future__ import annotations

import sys

import pytest
import torch

from trainables.models import device


def emulate(patch: pytest.MonkeyPatch) -> None:
    """From now on autocast means bf16 on the CPU, in every module that has imported it."""
    original = device.autocast

    def autocast(_: torch.device) -> torch.autocast:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    for module in list(sys.modules.values()):
        if getattr(module, "autocast", None) is original:
            patch.setattr(module, "autocast", autocast)
