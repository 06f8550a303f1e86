"""The arms by the whole net, run plainly: nothing is divided, and no feature is kept.

In torch's default type: in float64 where that is set.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.trainables.adapted import (
    HEADS,
    SEED,
    TEST_RES,
    TRAIN_RES,
    VIEWS,
    WHOLE,
    net_with,
    normalised,
    pixels_of,
    served,
)
from trainables.fixres import frechet
from trainables.fixres.heads import epoch_order
from trainables.models import backbone, variants
from trainables.models.parts.tensor_names import AFFINE, CLASSIFIER


def plain(made, arm):
    """Val's logits by the arm."""
    images, head, names = made.views.images, made.results[arm].head, names_of(made)
    x, train = (pixels(made, split) for split in ("val", "train"))
    if arm in ("none", "none_flip"):
        net = trunk(made)
    elif arm == "pool":
        net = in_windows(trunk(made))
    elif arm == "bn":
        net = re_estimated(made)
    elif arm == "frechet":
        net = mapped(made)
    elif arm in ("fix", "fix_flip"):
        net = trained(made, head, [train], names.of(CLASSIFIER))
    elif arm == "fix_aug":
        part = images.split("train")
        views = []
        for number in range(VIEWS):
            view = made.views.mild_view("train", WHOLE, number=number, hflip=0.5, seed=SEED)
            assert len(view) == len(part)
            squares = np.concatenate(list(view.batches(5)))
            views.append(normalised(squares, variants.preprocessing(made.variant)))
        net = trained(made, head, views, names.of(CLASSIFIER))
    elif arm == "fix_affine":
        net = trained(made, head, [train], names.of(AFFINE, CLASSIFIER))
    else:
        pytest.fail(f"compute the arm {arm} the plain way here")
    with torch.no_grad():
        return served(net, arm)(x)


def trunk(made):
    classes = len(made.views.images.classes)
    return net_with(made.trunk, made.variant.timm_name, classes)


def names_of(made):
    return backbone.names_of(trunk(made))


def pixels(made, split, test_res=TEST_RES):
    transform = replace(WHOLE, test_res=test_res)
    images, preprocessing = made.views.images, variants.preprocessing(made.variant)
    return pixels_of(images, split, transform, preprocessing)[0]


def re_estimated(made):
    """The trunk with its last batch norm's statistics as torch takes them from one large batch."""
    net, x = trunk(made), pixels(made, "train")
    norm = net.get_submodule(names_of(made).norm)
    norm.train()
    norm.momentum = 1.0
    with torch.no_grad():
        net(x)
    return net.eval()


@torch.enable_grad()
def trained(made, setting, views, tuned):
    """The net re-estimated and the named tensors trained: all of it runs in every step."""
    net, classifier = re_estimated(made), names_of(made).of(CLASSIFIER)
    y = torch.tensor(made.views.images.split("train").labels)
    net.requires_grad_(False)
    groups = []
    for name in tuned:
        parameter = net.get_parameter(name).requires_grad_(True)
        decay = setting.weight_decay if name in classifier else 0.0
        groups.append({"params": [parameter], "weight_decay": decay})
    optimizer = torch.optim.SGD(groups, setting.lr, momentum=HEADS.momentum)
    for epoch in range(1, setting.epochs + 1):
        x = views[(epoch - 1) % len(views)]
        for chosen in epoch_order(len(x), SEED, epoch).split(HEADS.batch_size):
            loss = F.cross_entropy(
                net(x[chosen]), y[chosen], label_smoothing=setting.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net


def in_windows(net):
    """The net with each window of its maps, as large as in training, classified by itself."""

    def forward(x):
        maps = net.forward_features(x)
        side = net.forward_features(x[..., :TRAIN_RES, :TRAIN_RES]).shape[-1]
        places = range(maps.shape[-1] - side + 1)
        each = torch.stack(
            [
                net.forward_head(maps[..., i : i + side, j : j + side])
                for i in places
                for j in places
            ]
        )
        return (each.mean(dim=0) + each.amax(dim=0)) / 2

    return forward


def mapped(made):
    """The trunk with the classifier's input mapped."""
    net = trunk(made)
    classifier, given = net.get_submodule(names_of(made).classifier), []
    classifier.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].numpy()))
    with torch.no_grad():
        for res in (TRAIN_RES, TEST_RES):
            net(pixels(made, "train", res))
    old, new = frechet.fit_laws(*(frechet.quantiles(features) for features in given))

    def forward(x):
        net(x)
        features = given[-1].astype(float)
        back = old.quantile(new.cdf(features).clip(1e-12, 1 - 1e-12))
        inside = (new.cdf(features) > 1e-9) & (new.cdf(features) < 1 - 1e-9)
        line = np.polyfit(features[inside], back[inside], 1)  # it is one: the tails go along it
        return F.linear(
            torch.tensor(np.polyval(line, features)).to(classifier.weight),
            classifier.weight,
            classifier.bias,
        )

    return forward
