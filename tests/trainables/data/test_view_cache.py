"""Views are made once a node, whole, and the same whoever makes them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from trainables.data import view_cache
from trainables.data.view_cache import ViewCache
from trainables.transforms.eval_transform import EvalTransform
from trainables.transforms.finetune_augmentation import draw_mild, mild_transform

WHOLE = EvalTransform(test_res=48, crop_pct=1.0, interpolation="bicubic")


def at(images, cache, threads=2):
    return ViewCache(images=images, cache=cache, threads=threads)


def test_a_view_holds_every_image_in_the_test_transform(tiny_images, tmp_path):
    split, found = tiny_images.split("val"), at(tiny_images, tmp_path).view("val", WHOLE)
    assert found.shape == (len(split), 48, 48, 3)
    for i in range(len(split)):
        np.testing.assert_array_equal(found[i], WHOLE(split[i]))
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable


def test_a_part_of_a_view_is_its_beginning(tiny_images, tmp_path):
    place = at(tiny_images, tmp_path)
    part = place.view("val", WHOLE, most=4)
    np.testing.assert_array_equal(part, place.view("val", WHOLE)[:4])
    assert len(place.view("val", WHOLE, most=99)) == 15


@pytest.mark.parametrize("threads", [1, 3])
def test_a_mild_view_is_the_draws_of_its_seed_and_number(tiny_images, tmp_path, threads):
    split = tiny_images.split("val")
    found = at(tiny_images, tmp_path, threads).mild_view("val", WHOLE, number=1, hflip=0.5, seed=3)
    drawn = draw_mild(split.sizes, WHOLE, 0.5, np.random.default_rng((3, 1)))
    for i in range(len(split)):
        np.testing.assert_array_equal(found[i], mild_transform(split[i], WHOLE, drawn[i]))


def test_a_view_is_made_once_and_every_other_one_is_another(tiny_images, tmp_path, monkeypatch):
    place = at(tiny_images, tmp_path)
    first = np.array(place.view("val", WHOLE))
    mild = np.array(place.mild_view("val", WHOLE, number=0, hflip=0.5, seed=0))
    monkeypatch.setattr(view_cache, "render_once", lambda images, path, *_, **__: path.exists())
    assert place.view("val", WHOLE)
    assert place.mild_view("val", WHOLE, number=0, hflip=0.5, seed=0)
    others = ({"test_res": 32}, {"crop_pct": 0.9}, {"interpolation": "bilinear"})
    for other in others:
        assert not place.view("val", replace(WHOLE, **other))
        assert not place.mild_view("val", replace(WHOLE, **other), number=0, hflip=0.5, seed=0)
    assert not place.view("test", WHOLE) and not place.view("val", WHOLE, most=3)
    for number, hflip, seed in ((1, 0.5, 0), (0, 0.0, 0), (0, 0.5, 1)):
        assert not place.mild_view("val", WHOLE, number=number, hflip=hflip, seed=seed)
    assert not np.array_equal(first, mild)


def test_a_view_cut_short_is_none(tiny_images, tmp_path, monkeypatch):
    def breaking(transform, image):
        if np.array_equal(image, tiny_images.split("val")[7]):
            raise RuntimeError("killed")
        return transform.cropped(transform.resized(image))

    with monkeypatch.context() as patch:
        patch.setattr(EvalTransform, "__call__", breaking)
        with pytest.raises(RuntimeError, match="killed"):
            at(tiny_images, tmp_path).view("val", WHOLE)
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".npy", ".tmp")]
    assert at(tiny_images, tmp_path).view("val", WHOLE).any(axis=(1, 2, 3)).all()


def test_views_asked_for_at_once_are_made_by_one(tiny_images, tmp_path, monkeypatch):
    made = []

    def counting(transform, image):
        made.append(1)
        return transform.cropped(transform.resized(image))

    monkeypatch.setattr(EvalTransform, "__call__", counting)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: at(tiny_images, tmp_path).view("val", WHOLE), range(4)))
    assert len(made) == len(tiny_images.split("val"))
    assert all(np.array_equal(one, found[0]) for one in found)
