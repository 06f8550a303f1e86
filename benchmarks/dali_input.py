"""Batches of a folder's photographs by DALI's pipeline on the CPU, for ``input.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from trainables.models.variants import Preprocessing


def dali_batches(
    folder: Path,
    res: int | None,
    *,
    train: bool,
    batch_size: int,
    crop_pct: float,
    preprocessing: Preprocessing,
) -> Iterator[torch.Tensor]:
    """Give an epoch's batches, made by one thread: random crops, test views, or whole images.

    Args:
        folder: class folders.
        res: px; None: the files are decoded and that is all.
        train: crop at random and mirror; the last batch is dropped where it is not full.

    Yields:
        (B, 3, R, R) float32, or (1, H, W, 3) uint8 where files are decoded.
    """
    from nvidia.dali import fn, pipeline_def, types

    kernels = {"bicubic": types.INTERP_CUBIC, "bilinear": types.INTERP_LINEAR}
    kernel = kernels[preprocessing.interpolation]
    mean, std = ([255 * x for x in row] for row in (preprocessing.mean, preprocessing.std))

    def images() -> Any:
        files, _ = fn.readers.file(file_root=str(folder), random_shuffle=train, name="files")
        if res is None:
            return fn.decoders.image(files)
        if train:
            x = fn.decoders.image_random_crop(
                files, random_area=[0.08, 1.0], random_aspect_ratio=[3 / 4, 4 / 3]
            )
            x = fn.resize(x, size=(res, res), interp_type=kernel)
            mirror = fn.random.coin_flip()
        else:
            short_side, mirror = int(res / crop_pct), 0
            x = fn.resize(fn.decoders.image(files), resize_shorter=short_side, interp_type=kernel)
        return fn.crop_mirror_normalize(
            x, crop=(res, res), mean=mean, std=std, mirror=mirror, output_layout="CHW"
        )

    # Nothing is made ahead: that would be the time of batches that nobody takes.
    ahead = {"prefetch_queue_depth": 1, "exec_async": False, "exec_pipelined": False}
    pipeline = pipeline_def(images)(batch_size=batch_size, num_threads=1, device_id=None, **ahead)
    pipeline.build()
    left = pipeline.epoch_size("files")
    while left >= (batch_size if train else 1):
        (made,) = pipeline.run()
        if res is None:
            yield from (torch.from_dlpack(made[i])[None] for i in range(min(left, batch_size)))
        else:
            yield torch.from_dlpack(made.as_tensor())[:left]
        left -= batch_size
