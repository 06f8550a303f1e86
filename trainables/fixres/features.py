"""Run a frozen trunk over a split once, and compute statistics and features from what it leaves.

A pass ends with the net's body (:mod:`.backbone`). The maps that it leaves are small, and all that
the arms need is cheap from there: the last batch norm's statistics over all images, and then the
features under those statistics, or under others, without a second pass of the net. A net without a
batch norm there has no statistics, of which there are then none: (0,).

Passes run under autocast, to the input of the last norm: in bf16 on a GPU, in float32 on a CPU.
From there on, all is float32. Models are in evaluation mode and on the device.
"""

from __future__ import annotations

import math
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import torch
from torch.nn.functional import avg_pool2d

from trainables.evaluation.inference import View, batches_of, outputs_of
from trainables.models import backbone
from trainables.models.backbone import Net
from trainables.models.device import in_float64
from trainables.models.mirrored import mirror
from trainables.models.transfer import host_memory
from trainables.models.variants import Preprocessing
from trainables.storage.damage import unless_damaged
from trainables.storage.files import Place, read_batch, write_batch
from trainables.storage.full_disk import allocate, full_disk_told


@dataclass(frozen=True)
class NormStatistics:
    """A batch norm's statistics: over all images and positions, for each of F channels."""

    mean: torch.Tensor  # (F,) float64
    var: torch.Tensor  # (F,) float64, unbiased


@dataclass(frozen=True)
class KeptFeatures:
    """What a cell of the same passes has left: its statistics, and the features under them."""

    statistics: NormStatistics
    folder: Place

    def read(self, name: str, labels: torch.Tensor) -> torch.Tensor | None:
        """Read the features of a view: (N, F) float32 on the CPU; None: they are not there.

        Args:
            name: of the view, "train", "val" or "train-mild-<n>".
            labels: (N,) int64, of the split's images in their order.
        """
        path = self.folder / f"{name}.arrow"
        found = unless_damaged(lambda: read_features(path) if path.exists() else None)
        if found is None or not np.array_equal(found[1], labels.numpy()):
            return None
        return torch.from_numpy(found[0].copy())


@dataclass(frozen=True)
class Maps:
    """The maps of all images of a view, in a file mapped into memory.

    The file has no name, so that a process that is killed leaves nothing of it. Used as a context,
    at whose end it is let go.
    """

    tensor: torch.Tensor  # (N, C, h, w) on the CPU; bfloat16 from a GPU, float32 from a CPU
    _file: IO[bytes]

    def __enter__(self) -> Maps:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@torch.inference_mode()
def body_pass(
    model: Net,
    view: View,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    device: torch.device,
    scratch: Path,
    mirrored: bool = False,
) -> Maps:
    """Run the net's body over a view, once, and keep the maps.

    Args:
        model: put into evaluation mode.
        view: (N, R, R, 3) uint8, N at least 1.
        scratch: folder for the file of the maps, N x C x h x w numbers; made if need be.
        mirrored: whether the net sees the images mirrored, left for right.

    Raises:
        DiskFullError: the disk of ``scratch`` has no room for the maps.
    """
    model.eval()
    scratch.mkdir(parents=True, exist_ok=True)
    batches = batches_of(view, batch_size, preprocessing, device)
    made = (backbone.body(model, mirror(x) if mirrored else x) for x in batches)
    with ExitStack() as unless_kept:
        file = unless_kept.enter_context(tempfile.TemporaryFile(dir=scratch))
        kept: torch.Tensor | None = None
        start = 0
        for maps in host_memory.read_behind(made):
            if kept is None:
                with full_disk_told(scratch):
                    kept = _mapped(file, (len(view), *maps.shape[1:]), maps.dtype)
            kept[start : start + len(maps)] = maps
            start += len(maps)
        assert kept is not None, "an empty split"
        unless_kept.pop_all()
    return Maps(kept, file)


def _mapped(file: IO[bytes], shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Map an empty file into memory as a tensor, with all the blocks that it will fill."""
    size = math.prod(shape) * dtype.itemsize
    allocate(file.fileno(), size)
    flat = np.memmap(file, np.uint8, "r+", shape=(size,))
    return torch.from_numpy(flat).view(dtype).view(shape)


@torch.inference_mode()
def norm_statistics(
    model: Net, maps: Maps, *, batch_size: int, device: torch.device
) -> NormStatistics:
    """Estimate the last batch norm's statistics on its input, over all images of the maps.

    Sums are float64: the batch size makes no difference but for rounding.
    """
    if not backbone.names_of(model).has_statistics:
        return current_statistics(model)
    total = squares = torch.zeros((), dtype=torch.float64)
    count = 0
    for batch in torch.split(maps.tensor, batch_size):
        z = in_float64(backbone.norm_input(model, backbone.pre_norm(model, batch.to(device))))
        total = total + z.sum(dim=(0, 2, 3)).cpu()
        squares = squares + z.square().sum(dim=(0, 2, 3)).cpu()
        count += z.shape[0] * z.shape[2] * z.shape[3]
    mean = total / count
    var = (squares / count - mean.square()).clamp_min(0) * (count / max(1, count - 1))
    return NormStatistics(mean, var)


def current_statistics(model: Net) -> NormStatistics:
    """Copy the statistics that the last batch norm has now."""
    if not backbone.names_of(model).has_statistics:
        return NormStatistics(*torch.zeros(2, 0, dtype=torch.float64))
    norm = backbone.last_norm(model)
    assert norm.running_mean is not None and norm.running_var is not None
    return NormStatistics(in_float64(norm.running_mean), in_float64(norm.running_var))


def set_norm(model: Net, statistics: NormStatistics) -> None:
    """Set the last batch norm's statistics, rounded to float32; its scale and shift stay."""
    if not backbone.names_of(model).has_statistics:
        return
    norm = backbone.last_norm(model)
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(statistics.mean.to(norm.running_mean.dtype))
    norm.running_var.copy_(statistics.var.to(norm.running_var.dtype))


@torch.inference_mode()
def features_of(
    model: Net, maps: Maps, *, batch_size: int, device: torch.device, most: int | None = None
) -> torch.Tensor:
    """Compute the classifier's input from maps, under the last batch norm as it stands.

    Args:
        most: only the first so many images.

    Returns:
        (N, F) float32 on the CPU.
    """
    batches = torch.split(maps.tensor[:most], batch_size)
    return torch.cat([_features(model, batch, device).cpu() for batch in batches])


def _features(model: Net, maps: torch.Tensor, device: torch.device) -> torch.Tensor:
    return backbone.head_input(model, backbone.pre_norm(model, maps.to(device)))


def features_pass(
    model: Net,
    view: View,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    device: torch.device,
    mirrored: bool = False,
) -> torch.Tensor:
    """Compute the classifier's input from pixels, in a pass that keeps no maps.

    Args:
        model: put into evaluation mode; its last batch norm as it is to be.
        view: (N, R, R, 3) uint8.
        mirrored: whether the net sees the images mirrored, left for right.

    Returns:
        (N, F) float32 on the CPU.
    """
    model.eval()

    def forward(x: torch.Tensor) -> torch.Tensor:
        return backbone.features(model, mirror(x) if mirrored else x)

    return outputs_of(forward, view, preprocessing, batch_size=batch_size, device=device)


@torch.inference_mode()
def pool_logits(
    model: Net,
    maps: torch.Tensor,
    window: int,
    *,
    batch_size: int,
    device: torch.device,
    exact: bool = False,
) -> torch.Tensor:
    """Compute logits with timm's test-time pooling (its ``TestTimePoolHead``).

    The train-time pooling window slides over the larger map, each of its positions is classified,
    and the logits are the mean of their average and their maximum. A map no larger than the window
    has one position: the plain logits.

    Args:
        maps: (N, C, h, w), as the body leaves them.
        window: side of the map at the train resolution.
        exact: in float32 throughout, as the model is served.

    Returns:
        (N, classes) float32 on the CPU.
    """
    window = min(window, maps.shape[-1])
    out = []
    for batch in torch.split(maps, batch_size):
        z = backbone.pre_norm(model, batch.to(device), exact=exact)
        positions = avg_pool2d(backbone.activations(model, z), window, stride=1)
        each = backbone.neck(model, positions.flatten(2).mT)
        logits = backbone.classify(model, each)  # (B, positions, classes)
        out.append((logits.mean(dim=1) + logits.amax(dim=1)).cpu() / 2)
    return torch.cat(out)


def write_features(path: Place, features: torch.Tensor, labels: np.ndarray) -> None:
    """Write an Arrow IPC file of one record batch: ``feature``, F numbers a row, and ``label``.

    Args:
        features: (N, F) float32 or float16 on the CPU.
        labels: (N,) int64.
    """
    values = pa.array(features.reshape(-1).numpy())
    columns = {
        "feature": pa.FixedSizeListArray.from_arrays(values, features.shape[1]),
        "label": pa.array(labels),
    }
    write_batch(path, pa.record_batch(columns))


def read_features(path: Place) -> tuple[np.ndarray, np.ndarray]:
    """Read features (N, F), as they were written, and labels (N,) int64.

    A file on this machine is mapped.
    """
    batch = read_batch(path)
    column = batch.column("feature")
    flat = column.flatten().to_numpy(zero_copy_only=True)
    features = flat.reshape(len(column), column.type.list_size)
    return features, batch.column("label").to_numpy(zero_copy_only=True)
