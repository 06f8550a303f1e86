"""Nets of other families than EfficientNet's: every arm against the whole net run plainly.

Each is a small member of its family, with weights by chance.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from tests.trainables.adapted import CLASSES, made_of_family, watched
from tests.trainables.fixres.plain_arms import plain
from trainables.fixres.adapted_net import adapted_state
from trainables.fixres.arms import ARMS
from trainables.fixres.cell import read_delta
from trainables.fixres.features import read_features
from trainables.fixres.streaming import feature_shards
from trainables.fixres.streaming.feature_shards import FeatureShards
from trainables.models import backbone
from trainables.models.parts.dividing import parts_of
from trainables.models.parts.tensor_names import STATISTICS
from trainables.storage.artifact_store import Store

TOLERANCE = 5e-4  # of the largest logit: training multiplies the rounding of float32


class Touched(NamedTuple):
    norm: str
    classifier: str
    has_statistics: bool = True


FAMILIES = {
    "resnet18": Touched("layer4.1.bn2", "fc"),
    "resnet26": Touched("layer4.1.bn3", "fc"),
    "resnext26ts": Touched("stages.3.1.conv3_1x1.bn", "head.fc"),
    "seresnet18": Touched("layer4.1.bn2", "fc"),
    "regnetx_002": Touched("s4.b7.conv3.bn", "head.fc"),
    "resnet10t": Touched("layer4.0.downsample.2", "fc"),
    "repvgg_a0": Touched("stages.3.0.conv_kxk.bn", "head.fc"),
    "mobilenetv3_small_050": Touched("blocks.5.0.bn1", "classifier"),
    "tf_efficientnetv2_b0": Touched("bn2", "classifier"),
    "test_efficientnet_gn": Touched("bn2", "classifier", has_statistics=False),
    "convnext_atto": Touched("head.norm", "head.fc", has_statistics=False),
    "densenet121": Touched("features.norm5", "classifier"),
    "ghostnet_050": Touched("blocks.9.0.bn1", "classifier"),
    "lcnet_050": Touched("blocks.5.1.bn2", "classifier"),
}


@pytest.fixture(scope="module", params=FAMILIES)
def adapted(request, tiny_images, tmp_path_factory):
    return made_of_family(request.param, tiny_images, tmp_path_factory.mktemp("family"))


def test_every_arm_is_what_the_whole_net_does_plainly(adapted):
    for arm, logits in adapted.logits.items():
        wanted = plain(adapted, arm)
        off = (logits - wanted).abs().max() / wanted.abs().max()
        assert off < TOLERANCE, arm


def test_an_arm_changes_what_it_says_and_not_a_bit_else(adapted):
    touched = FAMILIES[adapted.variant.timm_name]
    names = backbone.names_of(backbone.build(adapted.variant, CLASSES))
    assert (names.norm, names.classifier, names.has_statistics) == touched
    for arm in adapted.cell.arms:
        state = adapted_state(adapted.store, adapted.cell.trunk, adapted.cell.key, arm)
        assert state.keys() == adapted.trunk.keys()
        changed = {name for name in state if not torch.equal(state[name], adapted.trunk[name])}
        assert changed == set(names.of(*ARMS[arm].changes))


def test_a_streamed_cell_comes_near_the_one_of_kept_maps(adapted, tmp_path, monkeypatch):
    """Whatever a net carries past its last norm, mixes there, or does after its pooling."""
    monkeypatch.setattr(feature_shards, "SHARD_IMAGES", 6)
    shutil.copytree(adapted.store.root / "trunks", tmp_path / "store" / "trunks")
    store, cell = Store(tmp_path / "store"), replace(adapted.cell, prefix=12)
    _, logits, _ = watched(cell, store, adapted.views)
    names = backbone.names_of(backbone.build(adapted.variant, CLASSES))
    for name in names.of(STATISTICS):
        found, wanted = (
            read_delta(s, c.key, "bn")[name]
            for s, c in ((store, cell), (adapted.store, adapted.cell))
        )
        # Products are summed in float32; of these nets, noise, channels are all but dependent.
        torch.testing.assert_close(found, wanted, rtol=5e-3, atol=1e-4)
    for arm in (arm for arm in logits if not ARMS[arm].fits_classifier):
        off = (logits[arm] - adapted.logits[arm]).norm() / adapted.logits[arm].norm()
        assert off < TOLERANCE, arm
    labels = np.array(adapted.views.images.split("train").labels)
    folder = store.cell(cell.key)
    train: Any = FeatureShards(folder=folder, name="train", labels=labels, prefix=12).read()
    wanted = torch.from_numpy(
        read_features(adapted.store.cell(adapted.cell.key) / "train.arrow")[0]
    )
    off = (train.to(torch.device("cpu")).float() - wanted).norm() / wanted.norm()
    # Corrected features are near; those that take a pass of their own are rounded alone.
    parts = parts_of(backbone.build(adapted.variant, CLASSES))
    assert off < (1e-3 if parts.mixes_channels or not names.has_statistics else 0.05)
