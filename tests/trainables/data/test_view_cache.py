"""Views are made once per node, whole, and the same whichever process makes them."""

import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from trainables.data import view_cache
from trainables.data.cache import NoRoomError, SpaceRequest, make_room, set_limit
from trainables.data.view_cache import ViewCache
from trainables.errors import UserError
from trainables.transforms.eval_transform import EvalTransform
from trainables.transforms.finetune_augmentation import draw_mild, mild_transform

WHOLE = EvalTransform(test_res=48, crop_pct=1.0, interpolation="bicubic")
VAL_VIEW_BYTES = 15 * 48 * 48 * 3
REQUEST = SpaceRequest(what="9 images at 48 px", smaller="smaller resolutions")


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
    cache = at(tiny_images, tmp_path)
    part = cache.view("val", WHOLE, most=4)
    np.testing.assert_array_equal(part, cache.view("val", WHOLE)[:4])
    assert len(cache.view("val", WHOLE, most=99)) == 15


@pytest.mark.parametrize("threads", [1, 3])
def test_a_mild_view_is_the_draws_of_its_seed_and_number(tiny_images, tmp_path, threads):
    split = tiny_images.split("val")
    view = at(tiny_images, tmp_path, threads).mild_view("val", WHOLE, number=1, hflip=0.5, seed=3)
    found = np.concatenate(list(view.batches(4)))
    drawn = draw_mild(split.sizes, WHOLE, 0.5, np.random.default_rng((3, 1)))
    for i in range(len(split)):
        np.testing.assert_array_equal(found[i], mild_transform(split[i], WHOLE, drawn[i]))


def test_a_view_is_made_once_and_every_other_one_is_another(tiny_images, tmp_path, monkeypatch):
    cache = at(tiny_images, tmp_path)
    cache.view("val", WHOLE)
    monkeypatch.setattr(view_cache, "render_once", lambda _, path: path.exists())
    assert cache.view("val", WHOLE)
    others = ({"test_res": 32}, {"crop_pct": 0.9}, {"interpolation": "bilinear"})
    for other in others:
        assert not cache.view("val", replace(WHOLE, **other))
    assert not cache.view("test", WHOLE) and not cache.view("val", WHOLE, most=3)


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


def test_views_are_dropped_and_made_again_the_same(tiny_images, tmp_path):
    cache = at(tiny_images, tmp_path)
    first = cache.view("val", WHOLE)
    content = np.array(first)
    set_limit(tmp_path, 1.5 * VAL_VIEW_BYTES / 1e9)
    other = EvalTransform(test_res=40, crop_pct=1.0, interpolation="bicubic")
    with pytest.raises(UserError, match=r"15 images at 40 px need about 0\.1 MB"):
        cache.view("val", other)  # the first is in use
    np.testing.assert_array_equal(cache.view("val", WHOLE), content)
    del first
    cache.view("val", other)
    assert len(list((tmp_path / "views").glob("*.npy"))) == 1
    np.testing.assert_array_equal(cache.view("val", WHOLE), content)
    assert len(list((tmp_path / "views").glob("*.npy"))) == 1


def test_a_part_of_a_view_keeps_all_of_it(tiny_images, tmp_path):
    part = at(tiny_images, tmp_path).view("val", WHOLE)[3:5][0]
    set_limit(tmp_path, VAL_VIEW_BYTES / 1e9)
    with pytest.raises(UserError):
        make_room(tmp_path, VAL_VIEW_BYTES, REQUEST)
    del part
    make_room(tmp_path, VAL_VIEW_BYTES, REQUEST)


def test_a_view_that_is_unlinked_can_still_be_read(tiny_images, tmp_path):
    cache = at(tiny_images, tmp_path)
    mapped = cache.view("val", WHOLE)
    content = np.array(mapped)
    for path in (tmp_path / "views").glob("*.npy"):
        path.unlink()
    np.testing.assert_array_equal(mapped, content)
    np.testing.assert_array_equal(cache.view("val", WHOLE), content)


def streamed(images, tmp_path, threads=2):
    return at(images, tmp_path, threads).train_view(WHOLE)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 15, 99])
def test_a_streamed_view_has_the_pixels_of_the_kept_one_and_is_stored_nowhere(
    tiny_images, tmp_path, threads, batch_size
):
    cache = at(tiny_images, tmp_path / "streamed", threads)
    kept = at(tiny_images, tmp_path / "kept", threads)
    wanted = kept.train_view_kept_if_small(WHOLE)
    assert isinstance(wanted, np.memmap)
    for most in (None, 5):
        found = cache.train_view(WHOLE, most=most)
        batches = list(found.batches(batch_size))
        assert [len(b) for b in batches[:-1]] == [batch_size] * (len(batches) - 1)
        assert found.shape == wanted[:most].shape and len(found) == len(wanted[:most])
        np.testing.assert_array_equal(np.concatenate(batches), wanted[:most])
    assert not (tmp_path / "streamed").exists()


@pytest.mark.parametrize("kernel", ["pillow", "torch"])
def test_train_is_seen_as_val_is_but_for_the_rounding_of_its_kernel(
    tiny_images, tmp_path, monkeypatch, kernel
):
    """Both kernels may have been used on one node, as for a store of another machine."""
    for number, transform in enumerate((WHOLE, replace(WHOLE, crop_pct=0.8, test_res=40))):
        cache = at(tiny_images, tmp_path / str(number))
        for other in ("pillow", "torch"):
            monkeypatch.setattr(view_cache, "kernel_here", lambda other=other: other)
            cache.train_view_kept_if_small(transform)
        monkeypatch.setattr(view_cache, "kernel_here", lambda: kernel)
        found = np.array(cache.train_view_kept_if_small(transform)).astype(int)
        off = np.abs(found - cache.view("train", transform)).max()
        assert off == 0 if kernel == "pillow" else 0 < off <= 3


def test_a_part_of_a_streamed_view_is_that_part(tiny_images, tmp_path):
    view, options = at(tiny_images, tmp_path), {"number": 0, "hflip": 0.5, "seed": 0}
    for whole in (
        view.train_view(WHOLE),
        view.mild_view("val", WHOLE, **options),
    ):
        pixels = np.concatenate(list(whole.batches(4)))
        for part in (whole.part(3, 9), whole.part(0, 12).part(3, 9)):
            np.testing.assert_array_equal(np.concatenate(list(part.batches(4))), pixels[3:9])
        assert len(whole.part(9, 99)) == len(pixels) - 9


def counted(view):
    """The view, and the positions of the images that it has rendered."""
    rendered = []

    def render(i, image):
        rendered.append(i)
        return view.render(i, image)

    return replace(view, render=render), rendered


def test_a_streamed_view_renders_a_few_batches_ahead_and_no_more(tiny_images, tmp_path):
    view, rendered = counted(streamed(tiny_images, tmp_path))
    batches = view.batches(2)
    next(batches)
    batches.close()  # which waits for what is being rendered
    assert 2 <= len(rendered) <= 2 * (2 + view_cache.BATCHES_AHEAD) < len(view)


def test_a_streamed_view_ends_with_what_an_image_raises(tiny_images, tmp_path):
    def render(i, image):
        if i == 7:
            raise RuntimeError("broken")
        return WHOLE(image)

    view = replace(streamed(tiny_images, tmp_path), render=render)
    with pytest.raises(RuntimeError, match="broken"):
        list(view.batches(2))


def test_a_view_that_would_take_much_is_not_kept(tiny_images, tmp_path, monkeypatch):
    cache = at(tiny_images, tmp_path)
    size = math.prod(cache.train_view(WHOLE).shape)
    monkeypatch.setattr(view_cache, "MAX_KEPT_BYTES", size)
    assert isinstance(cache.train_view_kept_if_small(WHOLE), np.memmap)
    monkeypatch.setattr(view_cache, "MAX_KEPT_BYTES", size - 1)
    assert isinstance(cache.train_view_kept_if_small(WHOLE), view_cache.StreamedView)


def test_train_is_rendered_in_each_pass_where_a_bound_leaves_no_room_for_its_pixels(
    tiny_images, tmp_path
):
    wanted = np.array(at(tiny_images, tmp_path / "roomy").train_view_kept_if_small(WHOLE))
    cache = at(tiny_images, tmp_path / "bounded")
    set_limit(cache.cache, (math.prod(wanted.shape) - 1) / 1e9)
    found = cache.train_view_kept_if_small(WHOLE)
    assert isinstance(found, view_cache.StreamedView)
    np.testing.assert_array_equal(np.concatenate(list(found.batches(8))), wanted)
    assert not list(cache.cache.rglob("*.npy"))


@pytest.mark.parametrize("lacks", [0, 1])
def test_train_is_kept_only_where_its_disk_has_room_for_what_is_made_of_it(
    tiny_images, tmp_path, monkeypatch, lacks
):
    cache, maps = at(tiny_images, tmp_path), 7_000_000
    size = math.prod(cache.train_view(WHOLE).shape)
    usage = shutil.disk_usage(tmp_path)._replace(free=size + maps - lacks)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    found = cache.train_view_kept_if_small(WHOLE, beside=maps)
    assert isinstance(found, np.memmap) == (lacks == 0)


def test_views_that_nobody_reads_make_room_for_maps_whatever_the_bound(
    tiny_images, tmp_path, monkeypatch
):
    cache = at(tiny_images, tmp_path)
    cache.view("val", WHOLE)
    (path,) = (tmp_path / "views").glob("*.npy")
    set_limit(tmp_path, path.stat().st_size / 1e9)
    cache.make_room_for_maps(9 * VAL_VIEW_BYTES, 15)
    assert path.exists(), "the disk has room, and the bound is not of maps"
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(NoRoomError, match=r"maps of 15 images need about .* `map_gb`"):
        cache.make_room_for_maps(9 * VAL_VIEW_BYTES, 15)
    assert path.exists()
    held = cache.view("val", WHOLE)
    with pytest.raises(NoRoomError):
        cache.make_room_for_maps(VAL_VIEW_BYTES, 15)
    del held
    cache.make_room_for_maps(VAL_VIEW_BYTES, 15)
    assert not path.exists()
