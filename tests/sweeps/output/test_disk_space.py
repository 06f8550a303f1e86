"""What a sweep writes against the room there is: told, warned of, refused where it is certain."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeps.output import disk_space
from sweeps.output.disk_space import check_disks, check_expected, disk_needs
from sweeps.output.location import SweepLocation, location_of
from sweeps.planning.plan import Plan
from sweeps.planning.spec import SweepSpec
from tests.factories import is_one_sentence, plan_of, spec_with
from tests.trainables.adapted import TEST_RES, TRAIN, VAL, make
from trainables.data.cache import set_limit
from trainables.data.decode_pool import ExpectedImages
from trainables.data.image_set import ImageSet
from trainables.errors import UserError
from trainables.fixres.adapt import adapt_cell
from trainables.fixres.features import Maps, body_pass
from trainables.fixres.passes import net_passes
from trainables.fixres.streaming import train_stream
from trainables.profiling import disk_use
from trainables.profiling.disk_use import checkpoint_bytes, map_bytes
from trainables.storage.artifact_store import Store
from trainables.storage.object_store import remote_path

Usage = namedtuple("Usage", "total used free")
MB = 1_000_000
# B0 has 1,280 features, and 320 channels before them; its maps at 96 px are 3 x 3, at 64 px 2 x 2.
FEATURES, VIEW, MAPS = 1280, 96 * 96 * 3, 320 * 3 * 3 * 4
B0 = checkpoint_bytes("b0", 3)


@pytest.fixture
def spec(tmp_path: Path) -> SweepSpec:
    return spec_with(
        variants=("b0",),
        train_res=(64, 96),
        test_res=(64, 96),
        epochs=2,
        samples=3,
        survivors=2,
        arms=("none", "fix"),
        test_crop_pct=(1.0,),
        weights="none",
        ema_decay=0.99,
        cache_dir=tmp_path / "cache",
        out=tmp_path / "out",
    )


@pytest.fixture
def location(spec: SweepSpec) -> SweepLocation:
    return location_of(spec.output.out, None)


class Disks:
    """Free bytes by folder."""

    def __init__(self, spec: SweepSpec, patch: pytest.MonkeyPatch):
        self.cache = self.out = 10**12
        self._spec = spec
        patch.setattr(shutil, "disk_usage", self._usage)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("RAY_ADDRESS", raising=False)

    def _usage(self, path: Path) -> Usage:
        return Usage(0, 0, self.cache if path == self._spec.cache else self.out)


@pytest.fixture
def disks(spec: SweepSpec, monkeypatch: pytest.MonkeyPatch) -> Disks:
    return Disks(spec, monkeypatch)


def checked(plan: Plan, location: SweepLocation, *, begun: bool = False) -> list[str]:
    said: list[str] = []
    check_disks(plan, location, said.append, begun=begun)
    return said


@pytest.mark.parametrize(
    ("arms", "maps", "features"),
    [
        (("none",), 50, 0),
        (("none", "bn"), 120 + 50, 50),
        (("none", "fix"), 120 + 50, 50 + 120),
        (("fix_aug",), 120 + 50, 50 + 3 * 120),
    ],
)
def test_what_a_plan_writes_by_hand(
    spec: SweepSpec, arms: tuple[str, ...], maps: int, features: int
) -> None:
    needs = disk_needs(plan_of(spec_with(spec, arms=arms, views=3)), 4)
    assert needs.cell_name == "b0 at 96 px"
    assert (needs.pixels, needs.cell) == (50 * VIEW, 50 * VIEW + maps * MAPS)
    assert (needs.trunks, needs.cell_trunks) == (2 * 3 * B0, 2 * 2 * B0)
    served = len(set(arms) - {"pool"})
    logits = 50 * 3 * 4 * served  # of val's images, in three classes
    assert needs.cells == 2 * 2 * 2 * (features * (4 * FEATURES + 8) + logits)
    # Weights, AdamW's two moments and the moving average; the model in three forms.
    assert needs.state == 4 * B0 and 2.8 * B0 < needs.model <= 3 * B0
    assert needs.store == 6 * B0 + max(4 * B0, needs.model + needs.cells)
    in_half = disk_needs(plan_of(spec_with(spec, arms=arms)), 2).cell
    assert in_half == 50 * VIEW + maps * MAPS // 2


@pytest.mark.parametrize(
    ("arms", "fitted"), [(("none", "bn"), False), (("fix",), True), (("fix", "fix_aug"), True)]
)
def test_a_set_that_is_streamed_takes_its_prefix_and_three_times_its_features_in_half_precision(
    spec: SweepSpec, arms: tuple[str, ...], fitted: bool
) -> None:
    """At 96 px maps of 400 images may be kept of 2,000: their pixels are not, but val's are."""
    streamed = spec_with(spec, arms=arms, test_res=(96,), map_gb=400 * MAPS / 1e9, views=3)
    needs = disk_needs(plan_of(streamed, train=2000), 4)
    of_train = 400 if fitted else 0  # statistics alone are summed as train passes
    assert needs.kept_maps == (of_train or None)
    assert (needs.pixels, needs.cell) == (50 * VIEW, 50 * VIEW + (of_train + 50) * MAPS)
    half, full = 2 * FEATURES + 8, 4 * FEATURES + 8
    assert needs.passing == (3 * 2000 * half if fitted else 0)
    train_views = fitted + 3 * ("fix_aug" in arms)
    logits = 50 * 3 * 4 * len(arms)
    assert needs.cells == 2 * 2 * (2000 * half * train_views + 50 * full + logits)
    assert needs.views == 50 * VIEW
    kept = disk_needs(plan_of(spec_with(streamed, map_gb=4.0), train=2000), 4)
    assert kept.kept_maps is None and kept.passing == 0
    assert kept.cell == 50 * VIEW + (2000 + 50) * MAPS
    assert kept.views == (50 + 2000) * VIEW


@pytest.mark.parametrize(
    ("arms", "val", "kept", "maps"),
    [
        (("none", "none_flip"), 50, 400, 50 + 50),
        (("fix", "fix_flip"), 50, 2000, 2000 + 50 + 50),
        (("fix", "fix_flip"), 300, 400, 300 + 400),  # those of train are gone by then
        (("fix", "fix_flip"), 500, 400, 400),  # val is streamed too
    ],
)
def test_maps_of_val_are_kept_once_more_where_it_is_mirrored(
    spec: SweepSpec, arms: tuple[str, ...], val: int, kept: int, maps: int
) -> None:
    flipped = spec_with(spec, arms=arms, test_res=(96,), map_gb=kept * MAPS / 1e9)
    needs = disk_needs(plan_of(flipped, train=2000, val=val), 4)
    assert needs.cell - needs.pixels == maps * MAPS


@pytest.mark.parametrize("prefix", [12, 18, 99])
@pytest.mark.parametrize(
    "arms", [(), ("bn",), ("fix",), ("none_flip",), ("fix", "fix_flip"), ("fix_affine", "fix_flip")]
)
def test_a_cell_has_as_many_maps_at_once_as_are_planned(
    tiny_images: ImageSet,
    tiny_weights: Path,
    tiny_known: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arms: tuple[str, ...],
    prefix: int,
) -> None:
    made = make(tiny_images, tiny_weights, tmp_path, arms=("none",))
    planned = spec_with(
        variants=("tiny",),
        test_res=(TEST_RES,),
        arms=("none", *arms),
        test_crop_pct=(1.0,),
        weights="none",
        map_gb=prefix * map_bytes("tiny", TEST_RES, 4) / 1e9,
    )
    monkeypatch.setattr(disk_use, "MIN_PREFIX", 1)
    plan = plan_of(planned, train=TRAIN, val=VAL)
    at_once, most = 0, 0

    def kept(*given: Any, **how: Any) -> Maps:
        nonlocal at_once, most
        maps = body_pass(*given, **how)
        at_once += maps.tensor.nbytes
        most = max(most, at_once)
        return maps

    def let_go(maps: Maps, *_: object) -> None:
        nonlocal at_once
        at_once -= maps.tensor.nbytes

    monkeypatch.setattr(net_passes, "body_pass", kept)
    monkeypatch.setattr(train_stream, "body_pass", kept)
    monkeypatch.setattr(Maps, "__exit__", let_go)
    cell = replace(made.cell, arms=("none", *arms), prefix=plan.prefix("tiny", TEST_RES))
    adapt_cell(cell, Store(made.store.root), made.views)
    needs = disk_needs(plan, 4)
    assert needs.cell - needs.pixels == most


def test_a_val_larger_than_what_may_be_kept_streams_no_smaller_train(spec: SweepSpec) -> None:
    """Features of train are then whole, and not corrected."""
    plan = plan_of(spec_with(spec, test_res=(96,), map_gb=400 * MAPS / 1e9), train=300, val=500)
    needs = disk_needs(plan, 4)
    assert (needs.kept_maps, needs.passing) == (None, 0)
    assert needs.cell == 500 * VIEW + 300 * MAPS
    logits = 500 * 3 * 4 * 2
    assert needs.cells == 2 * 2 * ((300 + 500) * (4 * FEATURES + 8) + logits)


def test_pixels_of_a_large_train_are_nowhere_counted(
    spec: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(spec_with(spec, test_res=(96,)))
    assert disk_needs(plan, 4).views == (50 + 120) * VIEW
    monkeypatch.setattr(disk_space, "MAX_KEPT_BYTES", 120 * VIEW - 1)
    assert disk_needs(plan, 4).views == 50 * VIEW


def test_the_plan_says_which_cells_stream_and_what_that_takes(
    spec: SweepSpec, location: SweepLocation, disks: Disks
) -> None:
    streamed = spec_with(spec, test_res=(96,), map_gb=400 * MAPS / 1e9)
    cache, out = checked(plan_of(streamed, train=2000), location)[:2]
    assert "(b0 at 96 px, whose maps are kept of 400 images)" in cache
    assert "up to 15.4 MB for the features of a cell that streams" in out
    disks.out = disk_needs(plan_of(streamed, train=2000), 4).store - 1
    with pytest.raises(UserError, match=r"take .* at least"):
        checked(plan_of(streamed, train=2000), location)


def test_trunks_that_wait_at_rungs_take_more_than_their_weights(
    spec: SweepSpec, location: SweepLocation, disks: Disks
) -> None:
    halved = spec_with(spec, epochs=6, grace_epochs=1, reduction=3, samples=9)
    needs = disk_needs(plan_of(halved), 4)
    # At rungs 1 and 3: the third of 9, and of 7, and two more; moments and moving average of each.
    assert needs.waiting == 2 * (9 // 3 + 7 // 3 + 2) * 3 * B0
    disks.out = needs.store + needs.waiting - 1
    *_, out, warning = checked(plan_of(spec_with(halved, tracking_uri="http://x")), location)
    assert "while trunks wait at rungs;" in out
    assert warning.startswith(f"warning: {spec.output.out} may become too full while trunks wait")
    disks.out += 1
    assert len(checked(plan_of(spec_with(halved, tracking_uri="http://x")), location)) == 2


def test_each_crop_has_features_and_views_and_an_untouched_net_its_own(spec: SweepSpec) -> None:
    one = disk_needs(plan_of(spec), 4)
    two = disk_needs(plan_of(spec_with(spec, test_crop_pct=("weights", 1.0))), 4)
    assert (two.cells, two.views) == (2 * one.cells, 2 * one.views)
    assert (two.cell, two.trunks) == (one.cell, one.trunks)
    weights = spec_with(spec, weights="auto")
    without, with_it = (disk_needs(plan_of(weights, weights=w), 4) for w in (False, True))
    assert with_it.trunks == without.trunks + B0
    kept = (120 + 50) * (4 * FEATURES + 8) + 50 * 3 * 4
    assert with_it.cells == without.cells + 2 * kept


def test_weights_that_are_started_from_lie_in_the_store(spec: SweepSpec) -> None:
    plan = plan_of(spec)
    given = replace(plan, spec=spec_with(spec, weights="auto"))
    assert disk_needs(given, 4).store == disk_needs(plan, 4).store + B0


def test_both_numbers_are_told(spec: SweepSpec, location: SweepLocation, disks: Disks) -> None:
    disks.out = 2 * 10**9
    cache, out = checked(plan_of(spec), location)
    assert "3.3 MB for the largest cell (b0 at 96 px)" in cache
    assert f"--cache-dir {spec.cache} has room for 1000.0 GB" in cache
    assert "for all trunks, cells and the model" in out and "MLflow's copies" in out
    assert out.endswith(f"; 2.0 GB free in {spec.output.out}")


def test_a_disk_is_refused_from_the_byte_on_that_it_lacks(
    spec: SweepSpec, location: SweepLocation, disks: Disks
) -> None:
    plan = plan_of(spec)
    needs = disk_needs(plan, 4)
    disks.cache, disks.out = needs.cell, needs.store
    said = checked(plan, location)
    assert said[-1].startswith(
        f"warning: {spec.output.out} may become too full for MLflow's copies"
    )
    disks.out -= 1
    with pytest.raises(UserError, match=r"6 trunk\(s\) and 8 cell\(s\) take .* at least") as caught:
        checked(plan, location)
    assert is_one_sentence(str(caught.value).replace(str(spec.output.out), "OUT"))
    disks.cache, disks.out = needs.cell - 1, 10**12
    with pytest.raises(UserError, match=r"The largest cell \(b0 at 96 px\) takes 3.3 MB") as caught:
        checked(plan, location)
    assert "(--test-res), or name a --cache-dir on a larger disk." in str(caught.value)


def test_the_bound_of_the_cache_counts_for_what_it_bounds(
    spec: SweepSpec, location: SweepLocation, disks: Disks
) -> None:
    plan = plan_of(spec_with(spec, cache_gb=0.0013))  # less than the pixels; maps are beside it
    spec.cache.mkdir()
    set_limit(spec.cache, 0.0013)
    with pytest.raises(
        UserError, match=r"room for 1.3 MB of --cache-gb 0.0013 \(1000.0 GB of disk"
    ):
        checked(plan, location)
    set_limit(spec.cache, 0.0014)
    checked(plan, location)


def test_the_bound_may_be_that_of_another_sweep_with_the_same_cache(
    spec: SweepSpec, location: SweepLocation, disks: Disks
) -> None:
    spec.cache.mkdir()
    set_limit(spec.cache, 0.0013)
    with pytest.raises(UserError, match=r"room for 1.3 MB of another sweep's --cache-gb \(1000"):
        checked(plan_of(spec), location)


def test_a_sweep_that_is_continued_is_only_warned(
    spec: SweepSpec, location: SweepLocation, disks: Disks
) -> None:
    disks.cache, disks.out = 0, 10 * MB
    (spec.output.out / "store").mkdir(parents=True)
    (spec.output.out / "store" / "trunk.safetensors").write_bytes(b"\0" * 3 * MB)
    said = checked(plan_of(spec), location, begun=True)
    assert "3.0 MB of it written; 10.0 MB free" in said[1]
    assert [line.partition(":")[0] for line in said[2:]] == ["warning", "warning"]
    assert disk_space.is_begun(location)


def test_what_goes_elsewhere_needs_no_room_here(
    spec: SweepSpec, disks: Disks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A store elsewhere, MLflow elsewhere, and trials on the nodes of a cluster."""
    plan = plan_of(spec_with(spec, tracking_uri="http://127.0.0.1:5000"))
    remote = SweepLocation(out=spec.output.out, remote=remote_path((tmp_path / "s").as_uri()))
    disks.out = disk_needs(plan, 4).model
    assert "copies" not in checked(plan, remote)[1]
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    disks.cache = 0
    assert "on a node" in checked(plan, remote)[0]


def expected(**values: Any) -> ExpectedImages:
    known = {"classes": ("a", "b", "c"), "counts": {"train": 120, "val": 50, "test": 40}}
    return ExpectedImages(
        **{
            **known,
            "stored_bytes": 50 * MB,
            "file_bytes": 50 * MB,
            "splits_are_guessed": False,
            **values,
        }
    )


@pytest.mark.parametrize("crop", [1.0, "weights", "auto"])
def test_weights_and_sizes_need_not_be_known_to_look_for_room(
    spec: SweepSpec, location: SweepLocation, crop: float | str
) -> None:
    """Weights are looked for, and the images' shapes known, when these have been decoded."""
    said: list[str] = []
    with_untouched = spec_with(spec, weights="auto", test_crop_pct=(crop,))
    check_expected(with_untouched, location, expected(), said.append)
    assert not said


def test_images_are_not_decoded_for_cells_that_have_no_room_beside_them(
    spec: SweepSpec, location: SweepLocation, disks: Disks
) -> None:
    said: list[str] = []
    whole = 50 * MB + disk_needs(plan_of(spec), 4).cell
    disks.cache = whole
    check_expected(spec, location, expected(), said.append)
    assert not said
    disks.cache = whole - 1  # which an estimate does not tell for sure
    check_expected(spec, location, expected(), said.append)
    assert len(said) == 1 and said[0].startswith("warning: the images take about 50.0 MB and")
    disks.cache = whole * 8 // 10
    with pytest.raises(UserError, match=r"^The images take .* about 3.3 MB beside them, and"):
        check_expected(spec, location, expected(), said.append)
    check_expected(spec, location, expected(splits_are_guessed=True), said.append)
    assert len(said) == 2


def test_files_are_kept_where_pixels_leave_too_little_room_beside_them(
    spec: SweepSpec, location: SweepLocation, disks: Disks
) -> None:
    said: list[str] = []
    small = expected(file_bytes=5 * MB)
    needs = disk_needs(plan_of(spec), 4)

    def form() -> str:
        return check_expected(spec, location, small, said.append)

    disks.cache = 50 * MB + needs.cell
    assert form() == "decoded"
    disks.cache = 50 * MB  # which pixels would fill, but for what an estimate does not tell
    assert form() == "decoded" and said.pop().startswith("warning: the images take about 50.0 MB")
    disks.cache = 50 * MB - 1
    assert form() == "encoded"
    disks.cache = 5 * MB + needs.cell
    assert form() == "encoded" and not said
    disks.cache = 5 * MB
    with pytest.raises(UserError, match=r"^The images take about 5\.0 MB and the largest cell"):
        form()


def test_files_are_kept_where_the_bound_has_room_for_pixels_and_for_no_view(
    spec: SweepSpec, location: SweepLocation, disks: Disks
) -> None:
    many = {"train": 1200, "val": 500, "test": 400}
    small = expected(file_bytes=5 * MB, counts=many)
    pixels = disk_needs(plan_of(spec, *many.values()), 4).pixels
    spec.cache.mkdir()
    for bound, form in ((50 * MB + pixels, "decoded"), (50 * MB, "encoded")):
        set_limit(spec.cache, bound / 1e9)
        assert check_expected(spec, location, small, lambda _: None) == form


def test_images_are_not_decoded_for_trunks_that_have_no_room(
    spec: SweepSpec, location: SweepLocation, disks: Disks
) -> None:
    disks.out = B0
    with pytest.raises(UserError, match=r"--out .* free: try fewer --samples or --variants"):
        check_expected(spec, location, expected(), lambda _: None)
    check_expected(spec_with(spec, test_res="auto"), location, expected(), lambda _: None)
