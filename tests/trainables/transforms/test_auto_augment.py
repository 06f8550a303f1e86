"""Crops are distorted as torchvision distorts them, from the same draws to the same bytes."""

from typing import Literal

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torchvision.transforms import v2

from trainables.transforms.auto_augment import DrawnOperations

SIDE, COUNT = 40, 120
KINDS = {
    "rand": v2.RandAugment(interpolation=v2.InterpolationMode.BILINEAR),
    "trivial": v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR),
}
Kind = Literal["rand", "trivial"]


def images(count=COUNT):
    """Neither flat nor noise: all operations show on them."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.integers(40, 200, (count, 3, 5, 5)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic")
    return smooth.clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


class Asked:
    """Answers torchvision's calls of PyTorch's generator with what was drawn, and notes them."""

    def __init__(self, operations, number):
        chosen, strengths, negative = (
            part[number]
            for part in (operations._chosen, operations._strengths, operations._negative)
        )
        self.draws = list(zip(chosen, strengths, negative, strict=True))
        self.operations, self.at = len(operations._names), -1

    def randint(self, high, size):
        assert size == ()
        if high == self.operations:  # which operation: the next one begins
            self.at += 1
            return torch.tensor(self.draws[self.at][0])
        return torch.tensor(self.draws[self.at][1])

    def rand(self, size):
        assert size == ()
        return torch.tensor(0.25 if self.draws[self.at][2] else 0.75)


@pytest.mark.parametrize("kind", ["rand", "trivial"])
def test_the_same_draws_give_torchvisions_bytes(monkeypatch, kind: Kind):
    operations = DrawnOperations(kind, COUNT, SIDE, np.random.default_rng(1))
    changed = 0
    for number, image in enumerate(images()):
        found = image.copy()
        operations.apply(found, number)
        asked = Asked(operations, number)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "randint", asked.randint)
            patch.setattr(torch, "rand", asked.rand)
            wanted = KINDS[kind](torch.from_numpy(image).permute(2, 0, 1))
        np.testing.assert_array_equal(found, wanted.permute(1, 2, 0).numpy())
        changed += not np.array_equal(found, image)
    assert changed > COUNT / 2


@pytest.mark.parametrize("kind", ["rand", "trivial"])
def test_operations_strengths_and_directions_are_drawn_as_torchvision_draws_them(kind: Kind):
    operations = DrawnOperations(kind, 20_000, SIDE, np.random.default_rng(0))
    counts = np.bincount(operations._chosen.ravel(), minlength=len(operations._names))
    assert chisquare(counts).pvalue > 1e-3
    assert operations._chosen.shape[1] == (2 if kind == "rand" else 1)
    if kind == "rand":
        assert set(operations._strengths.ravel()) == {KINDS["rand"].magnitude}
    else:
        assert chisquare(np.bincount(operations._strengths.ravel(), minlength=31)).pvalue > 1e-3
    assert abs(operations._negative.mean() - 0.5) < 0.02


@pytest.mark.parametrize("kind", ["rand", "trivial"])
def test_no_global_generator_is_asked(kind: Kind):
    before = torch.get_rng_state()
    operations = DrawnOperations(kind, COUNT, SIDE, np.random.default_rng(2))
    for number, image in enumerate(images()):
        operations.apply(image, number)
    assert torch.equal(torch.get_rng_state(), before)
