"""Resize images to train on: several times as fast as Pillow, and a level or two of 255 off.

What a net learns from need not have Pillow's pixels to the last bit, as what it is judged by has:
val and test are resized by Pillow alone. Classifiers that are fitted on train in the test transform
by one kernel and by the other classify val alike (docs/measured.md).

PyTorch's kernel too computes on bytes, and holds no lock of Python's. Of its two passes the first
goes along the other side than Pillow's, which shows where bicubic overshoots black or white.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from trainables.transforms.centre_crop import is_too_long
from trainables.transforms.eval_transform import RESAMPLING, EvalTransform

Kernel = Literal["torch", "pillow"]


def kernel_here() -> Kernel:
    """Choose the kernel for this machine: PyTorch's where its processor has AVX2, or more.

    Without it, PyTorch's is slower than Pillow's, and rounds in a third way.
    """
    return "torch" if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") else "pillow"


def resize_into(
    out: np.ndarray,
    image: np.ndarray,
    interpolation: str,
    kernel: Kernel,
    *,
    mirrored: bool = False,
) -> None:
    """Resize an image, antialiased, and mirror it where that is asked for.

    Args:
        out: (R, S, 3) uint8; becomes the result.
        image: (H, W, 3) uint8; it may be a part of another.
        interpolation: a key of RESAMPLING.
    """
    height, width = out.shape[:2]
    if kernel == "pillow":
        picture = Image.fromarray(image)
        picture = picture.resize((width, height), RESAMPLING[interpolation])
        if mirrored:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        out[:] = np.asarray(picture)
        return
    # A batch of one whose copy is contiguous: the kernel then leaves it in the same layout.
    x = torch.from_numpy(np.array(image)).unsqueeze(0).permute(0, 3, 1, 2)
    resized = F.interpolate(x, (height, width), mode=interpolation, antialias=True)
    if mirrored:
        resized = resized.flip(-1)
    out[:] = resized[0].permute(1, 2, 0).numpy()


def eval_view(image: np.ndarray, transform: EvalTransform, kernel: Kernel) -> np.ndarray:
    """Resize and crop an image as in testing.

    Where PyTorch's kernel would have to make a picture of more than 16 megapixels, it is Pillow.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (test_res, test_res, 3) uint8.
    """
    width, height = size = transform.resized_size(*image.shape[:2])
    if kernel == "pillow" or is_too_long(size) or size == image.shape[1::-1]:
        return transform(image)
    resized = np.empty((height, width, 3), np.uint8)
    resize_into(resized, image, transform.interpolation, kernel)
    return transform.cropped(Image.fromarray(resized))
