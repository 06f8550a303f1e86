"""One pass of a frozen trunk over a split at a test resolution, kept as Arrow.

The pass ends before ``conv_head``. What it leaves, the maps, is small, and all that the arms need
is cheap from there: the last batch norm's statistics over all images, and then the pooled features
under those statistics, or under others, without a second pass of the net.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F

from trainables.evaluation.inference import batches_of, outputs_of
from trainables.models import backbone
from trainables.models.backbone import Net
from trainables.models.device import autocast
from trainables.models.variants import Preprocessing
from trainables.storage.files import Place, read_batch, write_batch


@dataclass(frozen=True)
class NormStatistics:
    """Mean and unbiased variance of each channel over all images and positions: (F,) float64."""

    mean: torch.Tensor
    var: torch.Tensor


@dataclass(frozen=True)
class Maps:
    """What a pass leaves, on disk: (N, C, h, w) before ``conv_head``. Use it as a context."""

    tensor: torch.Tensor
    _file: tempfile._TemporaryFileWrapper[bytes]

    def __enter__(self) -> Maps:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@torch.inference_mode()
def body_pass(
    model: Net,
    view: np.ndarray,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    device: torch.device,
    scratch: Path,
) -> Maps:
    """Run the frozen body over all of ``view``, (N, R, R, 3) uint8, once.

    Args:
        scratch: folder for the maps: N x C x ceil(R/32)^2 numbers of the device's precision.
    """
    model.eval()
    scratch.mkdir(parents=True, exist_ok=True)
    file = tempfile.NamedTemporaryFile(dir=scratch, prefix="maps-", suffix=".tmp")  # noqa: SIM115
    kept: torch.Tensor | None = None
    start = 0
    for x in batches_of(view, batch_size, preprocessing, device):
        with autocast(device):
            maps = backbone.body(model, x)
        if kept is None:
            shape = (len(view), *maps.shape[1:])
            size = int(np.prod(shape))
            flat = torch.from_file(file.name, shared=True, size=size, dtype=maps.dtype)
            kept = flat.view(shape)
        kept[start : start + len(maps)] = maps.cpu()
        start += len(maps)
    assert kept is not None, "an empty split"
    return Maps(kept, file)


def pre_norm(model: Net, maps: torch.Tensor, device: torch.device) -> torch.Tensor:
    """(B, C, h, w) maps before ``conv_head`` -> (B, F, h, w) after it, on the device."""
    with autocast(device):
        z: torch.Tensor = model.conv_head(maps.to(device))
    return z


@torch.inference_mode()
def norm_statistics(
    model: Net, maps: Maps, *, batch_size: int, device: torch.device
) -> NormStatistics:
    """Statistics of ``conv_head``'s output, summed in float64 whatever the batch size."""
    total = squares = torch.zeros((), dtype=torch.float64)
    count = 0
    for batch in maps.tensor.split(batch_size):
        z = pre_norm(model, batch, device).double()
        total = total + z.sum(dim=(0, 2, 3)).cpu()
        squares = squares + z.square().sum(dim=(0, 2, 3)).cpu()
        count += z.shape[0] * z.shape[2] * z.shape[3]
    mean = total / count
    var = (squares / count - mean.square()).clamp_min(0) * (count / max(1, count - 1))
    return NormStatistics(mean, var)


def norm_of(model: Net) -> NormStatistics:
    """A copy of what the last batch norm normalises by at present."""
    return NormStatistics(model.bn2.running_mean.double(), model.bn2.running_var.double())


def set_norm(model: Net, statistics: NormStatistics) -> None:
    """Put the statistics into the last batch norm's buffers; its scale and shift stay."""
    model.bn2.running_mean.copy_(statistics.mean)
    model.bn2.running_var.copy_(statistics.var)


@torch.inference_mode()
def features_of(
    model: Net, maps: Maps, *, batch_size: int, device: torch.device, most: int | None = None
) -> torch.Tensor:
    """(N, F) float32 on the CPU, or of the first ``most`` images: the classifier's input, under
    the last batch norm as it stands.
    """
    batches = maps.tensor[:most].split(batch_size)
    return torch.cat([_features(model, batch, device).cpu() for batch in batches])


def _features(model: Net, maps: torch.Tensor, device: torch.device) -> torch.Tensor:
    return backbone.pooled(model, pre_norm(model, maps, device).float())


def features_pass(
    model: Net,
    view: np.ndarray,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    device: torch.device,
) -> torch.Tensor:
    """The same straight from pixels, for a norm that stands: a pass that keeps no maps."""
    model.eval()

    def forward(x: torch.Tensor) -> torch.Tensor:
        with autocast(device):
            maps = backbone.body(model, x)
        return _features(model, maps, device)

    return outputs_of(forward, view, preprocessing, batch_size=batch_size, device=device)


@torch.inference_mode()
def pool_logits(
    model: Net, maps: torch.Tensor, window: int, *, batch_size: int, device: torch.device
) -> torch.Tensor:
    """(N, C, h, w) maps before ``conv_head`` -> (N, classes) logits by timm's test-time pooling.

    The train-time pooling window slides over the larger map, each of its positions is classified,
    and the logits are the mean of their average and their maximum (timm's TestTimePoolHead). A map
    no larger than the window has one position: the plain logits.
    """
    window = min(window, maps.shape[-1])
    out = []
    for batch in maps.split(batch_size):
        z = pre_norm(model, batch, device).float()
        positions = F.avg_pool2d(model.bn2(z), window, stride=1)
        logits = model.classifier(positions.flatten(2).mT)  # (B, positions, classes)
        out.append((logits.mean(dim=1) + logits.amax(dim=1)).cpu() / 2)
    return torch.cat(out)


def write_features(path: Place, features: torch.Tensor, labels: np.ndarray) -> None:
    """An Arrow IPC file with one record batch: ``feature`` (F float32 a row) and ``label``."""
    values = pa.array(features.reshape(-1).numpy())
    columns = {
        "feature": pa.FixedSizeListArray.from_arrays(values, features.shape[1]),
        "label": pa.array(labels),
    }
    write_batch(path, pa.record_batch(columns))


def read_features(path: Place) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, F) and labels (N,): nothing is copied of a file on this machine."""
    batch = read_batch(path)
    column = batch.column("feature")
    flat = column.flatten().to_numpy(zero_copy_only=True)
    features = flat.reshape(len(column), column.type.list_size)
    return features, batch.column("label").to_numpy(zero_copy_only=True)
