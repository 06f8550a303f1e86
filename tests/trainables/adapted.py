"""A trunk, a cell of all its arms on small pictures, and the same net by timm alone."""

from types import SimpleNamespace

import pytest
import timm
import torch
from torchvision.transforms.functional import to_tensor

from trainables.data.view_cache import ViewCache
from trainables.evaluation.metrics import score
from trainables.fixres.adapt import adapt_cell
from trainables.fixres.arms import ARMS
from trainables.fixres.cell import CellSpec
from trainables.fixres.head_settings import HeadGrid
from trainables.models import backbone, variants
from trainables.models.weights import find_weights
from trainables.storage.artifact_store import Store
from trainables.training.recipe import Hyper, Recipe
from trainables.training.trainer import TrunkTraining
from trainables.training.trunk import TrunkSpec, TrunkStatus, finalize_trunk, read_trunk_weights
from trainables.transforms.augmentation import Augmentation
from trainables.transforms.eval_transform import EvalTransform
from trainables.transforms.fast_resize import eval_view, kernel_here

TRAIN_RES, TEST_RES, CLASSES, VIEWS, SEED = 32, 64, 3, 2, 5
WHOLE = EvalTransform(test_res=TEST_RES, crop_pct=1.0, interpolation="bicubic")
HEADS = HeadGrid(lr=(0.02, 0.1), label_smoothing=(0.0, 0.1), epochs=4, patience=4, batch_size=8)
TRAIN, VAL = 22, 15


def make(tiny_images, tiny_weights, root):
    """A trunk, a cell adapted from it, val's logits, and how many images went through a net."""
    store = Store(root / "store")
    spec = TrunkSpec(
        variant="tiny",
        train_res=TRAIN_RES,
        weights=find_weights(variants.get("tiny"), str(tiny_weights), store),
        images=tiny_images.digest,
        recipe=Recipe(
            epochs=1,
            batch_size=8,
            optimizer="sgd",
            schedule="constant",
            warmup_epochs=0,
            dropout=False,
            augmentation=Augmentation(),
        ),
        hyper=Hyper(lr=0.02, weight_decay=0.0, label_smoothing=0.0),
        seed=0,
    )
    training = TrunkTraining(
        spec, tiny_images, store, cache=root, threads=2, val_transforms=(), rungs=()
    )
    training.epoch()
    finalize_trunk(store, spec.key, TrunkStatus.FINISHED)
    cell = CellSpec(
        trunk=spec.key,
        transform=WHOLE,
        arms=tuple(ARMS),
        heads=HEADS,
        views=VIEWS,
        batch_size=4,
        seed=SEED,
    )
    views = ViewCache(images=tiny_images, cache=root / "cache", threads=2)
    before = (store.trunk(spec.key) / "trunk.safetensors").read_bytes()
    results, logits, seen = watched(cell, store, views)
    trunk = read_trunk_weights(store, spec.key)
    return SimpleNamespace(
        store=store,
        cell=cell,
        views=views,
        trunk=trunk,
        results={result.arm: result for result in results},
        logits=logits,
        seen=seen,
        before=before,
    )


def watched(cell, store, views, images_at_once=None):
    """Adapt, and record val's logits for each arm and the images of each batch."""
    with pytest.MonkeyPatch.context() as patch:
        seen, val_logits = count_images(patch), []

        def record(logits, *rest):
            val_logits.append(logits)
            return score(logits, *rest)

        patch.setattr("trainables.fixres.adapt.score", record)
        results = adapt_cell(cell, store, views, images_at_once=images_at_once)
    return results, dict(zip((r.arm for r in results), val_logits, strict=True)), seen


def count_images(patch):
    """From now on, the number of images in each batch that enters any net."""
    seen: list[int] = []
    to_device = backbone.to_device

    def counted(model, device):
        moved = to_device(model, device)
        moved.conv_stem.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        return moved

    patch.setattr(backbone, "to_device", counted)
    return seen


def normalised(squares):
    x = torch.stack([to_tensor(square) for square in squares])
    return (x - 0.5) / 0.5


def pixels_of(images, split, transform=WHOLE):
    part, kernel = images.split(split), kernel_here() if split == "train" else "pillow"
    x = normalised([eval_view(part[i], transform, kernel) for i in range(len(part))])
    return x, torch.tensor(part.labels)


def net_with(state):
    net = timm.create_model("tf_efficientnet_tiny", num_classes=CLASSES)
    net.load_state_dict(state)
    return net.eval()


def served(net, arm):
    """What an arm serves of a net, plainly: its logits, or their mean over two passes."""
    return (lambda x: (net(x) + net(x.flip(3))) / 2) if ARMS[arm].mirrors else net
