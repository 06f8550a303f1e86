"""A linear probe is kept under all that it depends on."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.evaluation.kept_probe import ProbeSpec, read_probe, write_probe
from trainables.evaluation.linear_probe import Probe
from trainables.models.weights import Weights
from trainables.storage.artifact_store import Store

WEIGHTS = Weights(variant="lite0", source="made up", digest="d", name="lite0-d", classes=1000)
SPEC = ProbeSpec(weights=WEIGHTS, train_res=64, images="digest", class_weights="none")
CPU = torch.device("cpu")


def a_probe() -> Probe:
    generator = torch.Generator().manual_seed(0)
    return Probe(
        torch.randn(3, 5, generator=generator).T.contiguous().T, torch.randn(3, generator=generator)
    )


def test_a_probe_is_read_as_it_was_kept(tmp_path: Path) -> None:
    store, probe = Store(tmp_path), a_probe()
    assert read_probe(SPEC, store, CPU) is None
    write_probe(SPEC, store, probe)
    found = read_probe(SPEC, store, CPU)
    assert found is not None and all(map(torch.equal, found, probe))


def test_a_damaged_probe_counts_as_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write_probe(SPEC, store, a_probe())
    path = store.probe(SPEC.key)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert read_probe(SPEC, store, CPU) is None


@pytest.mark.parametrize("name", [field.name for field in fields(ProbeSpec)])
def test_what_a_probe_depends_on_is_in_its_key(tmp_path: Path, name: str) -> None:
    others: dict[str, Any] = {
        "weights": replace(WEIGHTS, digest="e"),
        "train_res": 96,
        "images": "digest-trainval",
        "class_weights": "balanced",
        "most_images": 10,
    }
    store, other = Store(tmp_path), replace(SPEC, **{name: others[name]})
    write_probe(SPEC, store, a_probe())
    assert read_probe(other, store, CPU) is None
