"""Batches of training images: their order, their crops, and their pixels on the device."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from PIL import Image
from torchvision.transforms import Compose, InterpolationMode, Normalize, ToTensor

from tests.trainables.training.small_nets import UNIT
from trainables.data.loader import TrainBatch, normalize_on_device, train_batches
from trainables.models import variants
from trainables.transforms.augmentation import Augmentation, Distortions


class Plates:
    """A split whose image i has the one colour i: a crop tells where it is from."""

    def __init__(self, count):
        self.labels = np.arange(count) % 3
        self.sizes = np.tile([[20, 30]], (count, 1))

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return np.full((20, 30, 3), i, dtype=np.uint8)


class Ramps(Plates):
    """A split whose images become brighter from left to right: also a part tells whether it is
    mirrored."""

    def __getitem__(self, i):
        return np.tile((8 * np.arange(30, dtype=np.uint8))[:, None], (20, 1, 3))


def mirrored(batch: TrainBatch) -> np.ndarray:
    """Which ramps of a batch are mirrored: (B,) bool."""
    pixels = batch.pixels.numpy()
    left, right = pixels[:, 0, 0, 0], pixels[:, 0, -1, 0]
    assert (left != right).all()
    return left > right


def epoch(split: Any, batch_size=4, seed=(0, 1), threads=2, hflip=0.5, res=8, **drawn: Any):
    return list(
        train_batches(
            split,
            res,
            batch_size=batch_size,
            augmentation=Augmentation(hflip=hflip),
            preprocessing=UNIT,
            seed=seed,
            threads=threads,
            **drawn,
        )
    )


def order_of(split: Any) -> list[int]:
    """The positions of a split's images in their order in an epoch of one batch."""
    return numbers(epoch(Plates(len(split)), batch_size=len(split))).tolist()


def numbers(batches):
    return np.concatenate([batch.pixels[:, 0, 0, 0] for batch in batches])


def test_batches_do_not_depend_on_the_number_of_threads(tiny_images):
    split = tiny_images.split("train")
    alone, together = epoch(split, threads=1), epoch(split, threads=4)
    assert len(alone) == len(together) == len(split) // 4
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        np.testing.assert_array_equal(one.labels, other.labels)


@pytest.mark.parametrize("count", [8, 11, 100])
def test_every_image_once_an_epoch_but_for_the_last_partial_batch(count):
    batches = epoch(Plates(count))
    assert [len(b.pixels) for b in batches] == [4] * (count // 4)
    seen = numbers(batches)
    assert len(set(seen.tolist())) == len(seen) == count - count % 4
    labels = np.concatenate([b.labels for b in batches])
    np.testing.assert_array_equal(labels, seen % 3)
    assert all(b.pixels.dtype == torch.uint8 and b.labels.dtype == torch.int64 for b in batches)


def test_the_only_batch_is_kept_although_it_is_not_full():
    batches = epoch(Plates(3))
    assert sorted(numbers(batches).tolist()) == [0, 1, 2]


def test_epochs_and_seeds_differ_and_the_same_seed_does_not(tiny_images):
    split = tiny_images.split("train")
    first, again = epoch(split, seed=(0, 1)), epoch(split, seed=(0, 1))
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(first, again, strict=True))
    orders = [tuple(numbers(epoch(Plates(100), seed=s))) for s in [(0, 1), (0, 2), (1, 1), (1, 0)]]
    assert len(set(orders)) == 4


def test_whom_an_incomplete_epoch_leaves_out_changes():
    seen = [frozenset(numbers(epoch(Plates(11), seed=(0, e))).tolist()) for e in range(20)]
    assert frozenset.union(*seen) == set(range(11))
    assert len(set(seen)) > 5


def test_an_epoch_is_of_the_images_that_are_drawn_as_often_as_they_are():
    drawn = np.array([7, 2, 2, 9, 2, 0, 9, 2])
    batches = epoch(Plates(10), drawn=drawn)
    assert [len(b.pixels) for b in batches] == [4, 4]
    seen = numbers(batches)
    assert sorted(seen) == sorted(drawn) and seen.tolist() != drawn.tolist()
    np.testing.assert_array_equal(np.concatenate([b.labels for b in batches]), seen % 3)


def test_every_image_once_is_what_comes_if_nothing_is_drawn(tiny_images):
    split = tiny_images.split("train")
    for one, other in zip(epoch(split), epoch(split, drawn=np.arange(len(split))), strict=True):
        assert all(map(np.array_equal, vars(one).values(), vars(other).values()))


def test_an_image_that_is_drawn_again_is_cropped_and_mirrored_anew(tiny_images):
    drawn = np.full(30, 4)
    (batch,) = epoch(tiny_images.split("train"), batch_size=30, drawn=drawn)
    assert len({pixels.tobytes() for pixels in batch.pixels.numpy()}) > 25
    (batch,) = epoch(Ramps(30), batch_size=30, drawn=drawn)
    assert 5 < mirrored(batch).sum() < 25


@pytest.mark.parametrize("hflip", [0.0, 0.3, 1.0])
def test_the_share_of_images_that_are_mirrored(hflip):
    split = Ramps(200)
    epochs = [epoch(split, batch_size=50, seed=(0, e), hflip=hflip) for e in range(20)]
    flips = np.concatenate([mirrored(batch) for batches in epochs for batch in batches])
    spread = math.sqrt(hflip * (1 - hflip) / len(flips))
    assert abs(flips.mean() - hflip) <= 4 * spread


@pytest.mark.parametrize("kernel", ["pillow", "torch"])
def test_the_train_pixels_are_torchvisions_resized_crops(tiny_images, monkeypatch, kernel):
    split = tiny_images.split("train")
    boxes = np.array([[i % 5, 2 + i % 3, 30 + i % 11, 25 + i % 7] for i in range(len(split))])
    monkeypatch.setattr("trainables.data.loader.random_resized_crops", lambda *_: boxes)
    (batch,) = epoch(split, batch_size=len(split), hflip=0.0, res=24, kernel=kernel)
    for label, pixels, i in zip(batch.labels, batch.pixels.numpy(), order_of(split), strict=True):
        top, left, height, width = boxes[i].tolist()
        picture = TF.resized_crop(
            Image.fromarray(split[i]), top, left, height, width, [24, 24], InterpolationMode.BICUBIC
        )
        assert label == split.labels[i]
        off = np.abs(np.asarray(picture).astype(int) - pixels)
        assert off.max() <= (2 if kernel == "torch" else 0)


@pytest.mark.parametrize("variant", ["b0", "b8"])
def test_pixels_are_normalised_on_the_device_as_torchvision_does(variant):
    wanted = variants.preprocessing(variants.get(variant))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    chain = Compose([ToTensor(), Normalize(wanted.mean, wanted.std)])
    found = normalize_on_device(torch.from_numpy(pixels), wanted, torch.device("cpu"))
    torch.testing.assert_close(
        found, torch.stack([chain(Image.fromarray(p)) for p in pixels]), rtol=0, atol=1e-6
    )
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_images_are_mixed_with_those_of_their_batch_from_the_last_to_the_first():
    """Plates have one colour each: so a mixed one tells of what, and how much of it."""
    plain, mixed = (epoch(Plates(60), distortions=Distortions(mixup=a)) for a in (0.0, 1.0))
    shares = []
    for before, after in zip(plain, mixed, strict=True):
        (labels, share), (partners, rest) = after.targets
        assert torch.equal(labels, before.labels) and torch.equal(partners, before.labels.flip(0))
        assert share + rest == pytest.approx(1)
        pixels = before.pixels.float()
        wanted = (share * pixels + rest * pixels.flip(0)).round()
        torch.testing.assert_close(after.pixels.float(), wanted, atol=1, rtol=0)
        shares.append(share)
    assert len(set(shares)) == len(shares)


def test_a_distortion_changes_no_draw_of_another():
    """What is erased of crops is the same, mixed or not; all else of them is as it was."""
    plain, erased, both = (
        epoch(Ramps(40), res=16, distortions=distortions)
        for distortions in (
            Distortions(),
            Distortions(random_erasing=0.5),
            Distortions(random_erasing=0.5, mixup=0.5),
        )
    )
    touched = 0
    for before, after, mixed in zip(plain, erased, both, strict=True):
        assert torch.equal(before.labels, after.labels)
        noise = (before.pixels != after.pixels).all(dim=3)
        assert torch.equal(after.pixels[noise], mixed.pixels[noise])
        touched += int(noise.any(dim=(1, 2)).sum())
    assert 8 < touched < 32  # of 40, every other one on average


def test_another_number_of_threads_and_another_start_change_no_distorted_batch():
    distortions = Distortions(auto_augment="rand", mixup=0.3, cutmix=0.7, random_erasing=0.5)
    whole = epoch(Ramps(40), distortions=distortions)
    for found in (
        epoch(Ramps(40), threads=1, distortions=distortions),
        [*whole[:5], *epoch(Ramps(40), start=5, distortions=distortions)],
    ):
        for one, other in zip(found, whole, strict=True):
            assert torch.equal(one.pixels, other.pixels)
            for (labels, share), (wanted, other_share) in zip(
                one.targets, other.targets, strict=True
            ):
                assert torch.equal(labels, wanted) and share == other_share
    later = epoch(Ramps(40), seed=(0, 2), distortions=distortions)
    assert not any(torch.equal(a.pixels, b.pixels) for a, b in zip(whole, later, strict=True))
