"""Operations on bytes as they lie in memory have torchvision's values, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from trainables.transforms.byte_operations import OPERATIONS

BILINEAR = v2.InterpolationMode.BILINEAR
KINDS: dict[str, Any] = {
    "rand": v2.RandAugment(interpolation=BILINEAR),
    "trivial": v2.TrivialAugmentWide(interpolation=BILINEAR),
}
LOOKS = ("smooth", "noise", "pale", "one channel flat", "black")


def picture(side: int, look: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low, high, grain = {"pale": (90, 130, 4), "noise": (0, 256, side)}.get(look, (0, 256, 6))
    colours = rng.integers(low, high, (grain, grain, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(colours).resize((side, side), Image.Resampling.BICUBIC))
    if look == "one channel flat":
        image[..., 1] = 77
    return image if look != "black" else np.zeros_like(image)


def by_torchvision(image: np.ndarray, kind: str, name: str, strength: float) -> np.ndarray:
    transform = KINDS[kind]
    planes = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    found = transform._apply_image_or_video_transform(
        planes, name, strength, interpolation=BILINEAR, fill=transform._fill
    )
    return found.permute(1, 2, 0).numpy()


def strengths(kind: str, name: str, side: int) -> list[float]:
    """All strengths of an operation, in either direction."""
    values, has_direction = KINDS[kind]._AUGMENTATION_SPACE[name]
    found = values(KINDS[kind].num_magnitude_bins, side, side)
    listed = [0.0] if found is None else [float(value) for value in found]
    return listed + [-value for value in listed] if has_direction else listed


def check(image: np.ndarray, kind: str, name: str, strength: float) -> None:
    found = image.copy()
    OPERATIONS[name](found, strength)
    np.testing.assert_array_equal(found, by_torchvision(image, kind, name, strength))


def test_every_operation_of_torchvisions_is_there():
    for transform in KINDS.values():
        assert list(transform._AUGMENTATION_SPACE) == list(OPERATIONS)


@pytest.mark.parametrize("name", list(OPERATIONS))
@settings(deadline=None, max_examples=60)
@given(data=st.data(), side=st.integers(1, 90), seed=st.integers(0, 99))
def test_values_are_torchvisions(name: str, data: Any, side: int, seed: int) -> None:
    kind, look = data.draw(st.sampled_from(list(KINDS))), data.draw(st.sampled_from(LOOKS))
    strength = data.draw(st.sampled_from(strengths(kind, name, side)))
    check(picture(side, look, seed), kind, name, strength)


@pytest.mark.parametrize("name", list(OPERATIONS))
@pytest.mark.parametrize("kind", list(KINDS))
def test_large_images_have_torchvisions_values_too(name: str, kind: str) -> None:
    """Positions and means are rounded more, the larger the image."""
    for strength in strengths(kind, name, 300)[9::22]:
        check(picture(300, "smooth", 0), kind, name, strength)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "Identity"])
def test_every_other_operation_shows(name: str) -> None:
    image = picture(40, "pale", 0)
    strongest = strengths("trivial", name, 40)[-1]
    found = image.copy()
    OPERATIONS[name](found, strongest)
    assert not np.array_equal(found, image)
