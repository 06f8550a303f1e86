"""Decoded images in splits."""

import pickle
from dataclasses import replace

import numpy as np
import pytest


def pixels_of(split):
    return {split[i].tobytes() for i in range(len(split))}


def test_pixels_are_a_read_only_view_into_the_cache(tiny_images):
    split = tiny_images.split("val")
    assert split[0].base is not None
    for array in (split[0], split.labels, split.sizes):
        assert not array.flags.writeable
    assert all(split[i].shape == (*size, 3) for i, size in enumerate(split.sizes.tolist()))
    with pytest.raises(IndexError):
        split[len(split)]


def test_a_split_pickles_as_a_path(tiny_images, monkeypatch):
    split = tiny_images.split("val")
    data = pickle.dumps(split)
    assert len(data) < 1000
    monkeypatch.chdir("/")
    again = pickle.loads(data)
    assert all(np.array_equal(again[i], split[i]) for i in range(len(split)))


@pytest.mark.parametrize("name", ["valid", "trainval"])
def test_an_unknown_split_is_refused(tiny_images, name):
    with pytest.raises(ValueError, match=f"no split '{name}': there are train, val, test"):
        tiny_images.split(name)


def test_a_merged_set_trains_on_val_too_and_has_no_val(tiny_images):
    merged = tiny_images.merged()
    assert merged.digest != tiny_images.digest
    assert replace(merged, digest=tiny_images.digest, val_in_train=False) == tiny_images
    both = pixels_of(tiny_images.split("train")) | pixels_of(tiny_images.split("val"))
    assert pixels_of(merged.split("train")) == both
    assert pixels_of(merged.split("test")) == pixels_of(tiny_images.split("test"))
    with pytest.raises(ValueError, match="no split 'val': there are train, test"):
        merged.split("val")
