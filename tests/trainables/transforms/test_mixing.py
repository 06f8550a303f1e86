"""Batches are mixed as timm mixes them, from the same draws to the same bytes."""

from types import SimpleNamespace

import numpy as np
import pytest
from timm.data import FastCollateMixup
from timm.data import mixup as timms

from trainables.transforms.mixing import draw_mix, mix_into

SIDE, CLASSES = 23, 5


def as_timm_draws(rng):
    """NumPy's global generator, as far as timm asks it, with our draws in timm's order."""
    first = iter([True])

    def rand():
        return 0.0 if next(first, False) else rng.random()  # whether to mix at all comes first

    def randint(low, high, size=None):
        return int(rng.integers(low, high))

    return SimpleNamespace(rand=rand, beta=rng.beta, randint=randint)


@pytest.mark.parametrize("alphas", [(0.3, 0.0), (0.0, 1.0), (0.8, 1.0)], ids=str)
@pytest.mark.parametrize("seed", range(12))
def test_pixels_and_labels_are_those_of_timms_loader(monkeypatch, alphas, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (6, SIDE, SIDE, 3), dtype=np.uint8)
    labels = rng.integers(0, CLASSES, 6)
    numpy_of_timm = SimpleNamespace(**{**vars(np), "random": as_timm_draws(rng)})
    rng.bit_generator.state = start = np.random.default_rng((seed, 1)).bit_generator.state
    monkeypatch.setattr(timms, "np", numpy_of_timm)
    mixup, cutmix = alphas
    collate = FastCollateMixup(mixup, cutmix, label_smoothing=0.1, num_classes=CLASSES)
    pixels, targets = collate(
        [(image.transpose(2, 0, 1), int(y)) for image, y in zip(images, labels, strict=True)]
    )
    rng.bit_generator.state = start
    mix = draw_mix(mixup, cutmix, SIDE, rng)
    found = np.empty_like(images)
    for out, image, partner in zip(found, images, images[::-1], strict=True):
        mix_into(out, image, partner, mix)
    np.testing.assert_array_equal(found, pixels.permute(0, 2, 3, 1).numpy())
    one_hot = 0.9 * np.eye(CLASSES)[labels] + 0.1 / CLASSES
    np.testing.assert_allclose(
        mix.share * one_hot + (1 - mix.share) * one_hot[::-1], targets.numpy(), atol=1e-6
    )


def test_both_kinds_come_equally_often_where_both_are_asked_for():
    mixes = [draw_mix(0.5, 0.5, SIDE, np.random.default_rng(seed)) for seed in range(2000)]
    cut = sum(mix.box is not None for mix in mixes)
    assert abs(cut - 1000) < 5 * np.sqrt(500)
    assert all(0 <= mix.share <= 1 for mix in mixes)


def test_the_share_is_that_of_the_pixels_also_where_the_box_leaves_the_image():
    black, white = (np.full((SIDE, SIDE, 3), value, np.uint8) for value in (0, 255))
    out = np.empty_like(black)
    cut_off = 0
    for seed in range(200):
        mix = draw_mix(0.0, 1.0, SIDE, np.random.default_rng(seed))
        mix_into(out, black, white, mix)
        assert (out == 255).mean() == pytest.approx(1 - mix.share)
        assert mix.box is not None
        rows, columns = mix.box
        cut_off += (rows.stop - rows.start) != (columns.stop - columns.start)
    assert cut_off > 20
