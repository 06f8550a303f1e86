"""The gradient of many classifiers' losses at once, against torch's loss and autograd."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from trainables.fixres.head_loss import BatchedLoss, weights_by_kind
from trainables.fixres.head_settings import HeadGrid

CLASSES = 5  # of the last of which train has no image
GRID = HeadGrid(
    lr=(0.1,),
    label_smoothing=(0.0, 0.1, 0.7),
    class_weights=("none", "sqrt", "balanced"),
    epochs=1,
    patience=1,
    batch_size=16,
)
TRAIN = torch.tensor([0] * 20 + [1] * 5 + [2] * 2 + [3])


def test_weights_are_of_the_train_images_and_of_none_there_are_none():
    found = weights_by_kind(TRAIN, CLASSES, GRID.class_weights)
    assert found["none"] is None
    balanced, root = found["balanced"], found["sqrt"]
    assert balanced is not None and root is not None
    wanted = compute_class_weight("balanced", classes=np.arange(4), y=TRAIN.numpy())
    assert balanced.tolist() == pytest.approx([*wanted, 1.0])
    assert balanced.dtype == root.dtype == torch.float32
    assert root[1] / root[0] == pytest.approx(2)  # a quarter of the images


@pytest.mark.parametrize("labels", [TRAIN[::3], TRAIN[:1], TRAIN[-1:], TRAIN[:7]], ids=len)
@pytest.mark.parametrize(
    "grid", [GRID, replace(GRID, class_weights=("none",)), replace(GRID, class_weights=("sqrt",))]
)
def test_every_settings_gradient_is_that_of_torchs_loss(grid, labels):
    torch.manual_seed(0)
    settings = grid.settings
    weights = weights_by_kind(TRAIN, CLASSES, grid.class_weights)
    z = torch.randn(len(settings), CLASSES, len(labels))
    scale = torch.rand(len(settings), 1, 1) - 2
    found = z.softmax(dim=1)
    BatchedLoss(settings, weights, torch.zeros(CLASSES)).to_gradient(found, labels, scale)
    for i, setting in enumerate(settings):
        w = weights[setting.class_weights]
        logits = z[i].T.double().requires_grad_()
        loss = torch.nn.CrossEntropyLoss(
            None if w is None else w.double(), label_smoothing=setting.label_smoothing
        )
        loss(logits, labels).backward()
        assert logits.grad is not None
        wanted = scale[i].item() * logits.grad.T
        torch.testing.assert_close(found[i].double(), wanted, rtol=1e-5, atol=1e-6)
