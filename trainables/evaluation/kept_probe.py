"""Fit a linear probe on train, and keep it: all trunks that start from it have it fitted once.

probes/<key>.safetensors                    its weight and bias

Of the processes of a node that want one at the same time, one fits it and the others wait. Those of
several nodes may each fit it, to the same: the one that ends last is kept.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from filelock import FileLock

from trainables.data.view_cache import ViewCache
from trainables.evaluation.linear_probe import Probe, features_of, fit_probe
from trainables.models import variants
from trainables.models.backbone import Net
from trainables.models.weights import Weights
from trainables.storage.artifact_store import Store
from trainables.storage.damage import unless_damaged
from trainables.storage.files import read_tensors, write_tensors
from trainables.storage.hashing import content_hash
from trainables.transforms.eval_transform import EvalTransform
from trainables.transforms.resolution import TEST_CROP_PCT

STAGE = "probe 1"  # raise it when the same spec would give another probe
PROBE_IMAGES = 20_000  # of train, at most, that a probe is fitted on


@dataclass(frozen=True, kw_only=True)
class ProbeSpec:
    """All that a probe depends on."""

    weights: Weights  # of the net that sees the images
    train_res: int  # px, at which it sees them whole
    images: str  # the image set's digest
    class_weights: str  # in the loss: their name in the recipe
    most_images: int = PROBE_IMAGES

    @property
    def key(self) -> str:
        """The name of the probe in the store."""
        return content_hash(STAGE, self)


def fit_once(
    spec: ProbeSpec,
    store: Store,
    model: Net,
    views: ViewCache,
    *,
    class_weights: np.ndarray | None,
    batch_size: int,
    device: torch.device,
) -> tuple[Probe, float]:
    """Read a probe, or fit it on train images that are whole, at the train resolution.

    While a process of this node is fitting it, others wait; the system gives back what a process
    that ends has locked, however it ends.

    Args:
        model: with the weights as they come; put into evaluation mode where the probe is fitted.
        class_weights: (C,) float64, those that the spec names.
        batch_size: images at once, at first.

    Returns:
        The probe, and the seconds that fitting it took here; 0: it was there, or became so.
    """
    kept = _read(spec, store, device)
    if kept is not None:
        return kept, 0.0
    locks = views.cache / "probes"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{spec.key}.lock"):
        kept = _read(spec, store, device)
        if kept is not None:
            return kept, 0.0
        began = time.monotonic()
        probe = _fit(spec, model, views, class_weights, batch_size, device)
        seconds = time.monotonic() - began
        _write(spec, store, probe)
    return probe, seconds


def _fit(
    spec: ProbeSpec,
    model: Net,
    views: ViewCache,
    class_weights: np.ndarray | None,
    batch_size: int,
    device: torch.device,
) -> Probe:
    preprocessing = variants.preprocessing(variants.get(spec.weights.variant))
    whole = EvalTransform(
        test_res=spec.train_res,
        crop_pct=TEST_CROP_PCT,
        interpolation=preprocessing.interpolation,
    )
    view = views.train_view(whole, most=spec.most_images)
    features = features_of(model, view, preprocessing, batch_size=batch_size, device=device)
    labels = views.images.split("train").labels[: len(features)]
    return fit_probe(
        features,
        torch.tensor(labels, device=device),
        len(views.images.classes),
        class_weights=None if class_weights is None else features.new_tensor(class_weights),
    )


def _read(spec: ProbeSpec, store: Store, device: torch.device) -> Probe | None:
    """Read a probe; None: it is not there, or damaged."""
    path = store.probe(spec.key)
    found = unless_damaged(lambda: read_tensors(path) if path.exists() else None)
    return None if found is None else Probe(**{name: t.to(device) for name, t in found.items()})


def _write(spec: ProbeSpec, store: Store, probe: Probe) -> None:
    write_tensors(store.probe(spec.key), probe._asdict())
