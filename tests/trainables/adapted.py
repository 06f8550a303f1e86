"""A trunk, a cell of all its arms on small pictures, and the same net by timm alone."""

from types import SimpleNamespace

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms.functional import to_tensor

from trainables.data.view_cache import ViewCache
from trainables.evaluation.metrics import score
from trainables.fixres.adapt import adapt_cell
from trainables.fixres.arms import ARMS
from trainables.fixres.cell import CellSpec
from trainables.fixres.head_settings import HeadGrid
from trainables.models import backbone, variants
from trainables.models.parts.tensor_names import STATISTICS
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


def make(images, weights, root, variant="tiny", arms=tuple(ARMS)):
    """A trunk, a cell adapted from it, val's logits, and how many images went through a net."""
    store = Store(root / "store")
    spec = TrunkSpec(
        variant=variant,
        train_res=TRAIN_RES,
        weights=find_weights(variants.get(variant), str(weights), store),
        images=images.digest,
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
        spec, images, store, cache=root, threads=2, val_transforms=(), rungs=()
    )
    training.epoch()
    finalize_trunk(store, spec.key, TrunkStatus.FINISHED)
    cell = CellSpec(
        trunk=spec.key,
        transform=WHOLE,
        arms=arms,
        heads=HEADS,
        views=VIEWS,
        batch_size=4,
        seed=SEED,
    )
    views = ViewCache(images=images, cache=root / "cache", threads=2)
    before = (store.trunk(spec.key) / "trunk.safetensors").read_bytes()
    results, logits, seen = watched(cell, store, views)
    trunk = read_trunk_weights(store, spec.key)
    return SimpleNamespace(
        variant=variants.get(variant),
        store=store,
        cell=cell,
        views=views,
        trunk=trunk,
        results={result.arm: result for result in results},
        logits=logits,
        seen=seen,
        before=before,
    )


def made_of_family(name, images, root):
    """The same of a net of timm's, with weights by chance, by all arms that adapt something."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=len(images.classes)).train()
    with torch.no_grad():
        for module in net.modules():
            # So that norms do something: timm begins residual branches at zero.
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
        net(torch.randn(8, 3, TEST_RES, TEST_RES))
    weights = root / "weights"
    weights.mkdir(parents=True)
    save_file(net.state_dict(), weights / f"{name}.safetensors")
    names = backbone.names_of(net)
    arms = tuple(a for a in ARMS if names.has_statistics or ARMS[a].changes != (STATISTICS,))
    return make(images, weights, root, f"timm:{name}", arms)


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
        first = next(part for part in moved.modules() if isinstance(part, nn.Conv2d))
        first.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        return moved

    patch.setattr(backbone, "to_device", counted)
    return seen


def normalised(squares, preprocessing=None):
    x = torch.stack([to_tensor(square) for square in squares])
    mean, std = (preprocessing.mean, preprocessing.std) if preprocessing else ((0.5,), (0.5,))
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def pixels_of(images, split, transform=WHOLE, preprocessing=None):
    part, kernel = images.split(split), kernel_here() if split == "train" else "pillow"
    squares = [eval_view(part[i], transform, kernel) for i in range(len(part))]
    return normalised(squares, preprocessing), torch.tensor(part.labels)


def net_with(state, name="tf_efficientnet_tiny", classes=CLASSES):
    net = timm.create_model(name, num_classes=classes)
    net.load_state_dict(state)
    return net.eval()


def served(net, arm):
    """What an arm serves of a net, plainly: its logits, or their mean over two passes."""
    return (lambda x: (net(x) + net(x.flip(3))) / 2) if ARMS[arm].mirrors else net
