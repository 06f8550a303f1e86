"""Nets and batches that a test trains in no time, and memory that runs out."""

from collections import OrderedDict
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from trainables.data.loader import TrainBatch
from trainables.models.variants import Preprocessing

CPU = torch.device("cpu")
UNIT = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=1.0)


def draw(images, res=16, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return TrainBatch(
        torch.from_numpy(rng.integers(0, 256, (images, res, res, 3), dtype=np.uint8)),
        torch.from_numpy(rng.integers(0, classes, images)),
    )


def plain_net():
    """Neither batch norm nor dropout: each image for itself. Its parts have timm's names."""
    torch.manual_seed(0)
    conv, head = nn.Conv2d(3, 8, 3, 2), nn.Linear(8 * 7 * 7, 3)
    return net_of(conv_stem=conv, bn1=nn.ReLU(), global_pool=nn.Flatten(), classifier=head)


def net_of(**parts):
    """A net of some of an EfficientNet's parts; the others do nothing."""
    names = ("conv_stem", "bn1", "blocks", "conv_head", "bn2", "global_pool", "classifier")
    return nn.Sequential(OrderedDict((name, parts.get(name, nn.Identity())) for name in names))


@contextmanager
def room_for(model, images, *, backward=False):
    """Memory runs out at the end of a forward (or at the start of its backward) of more images.

    It is CUDA that says so, as where a library has taken it past PyTorch.
    """

    def run_out(_module, inputs, *_):
        if len(inputs[0]) > images:
            raise torch.AcceleratorError("CUDA error: out of memory", 2)

    last = list(model.children())[-1]
    if backward:
        hook = last.register_full_backward_hook(lambda _m, gi, go: run_out(_m, go))
    else:
        hook = last.register_forward_hook(run_out)
    try:
        yield
    finally:
        hook.remove()
