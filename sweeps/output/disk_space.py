"""Compare what a sweep will write with the room that there is, before hours are spent on it.

What is counted is the least that a sweep can do with: nothing is refused that would fit.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sweeps.environment import on_cluster
from sweeps.output.location import SweepLocation
from sweeps.output.sweep_record import SPEC
from sweeps.planning.building import expected_plan
from sweeps.planning.grid import Point
from sweeps.planning.options.touched import mixes_channels, names_of
from sweeps.planning.plan import Plan
from sweeps.planning.spec import SweepSpec
from sweeps.planning.workload import most_waiting
from trainables.data.cache import Room, room_in, size_in_words
from trainables.data.decode_pool import ExpectedImages
from trainables.data.image_set import Form
from trainables.data.view_cache import MAX_KEPT_BYTES
from trainables.errors import UserError
from trainables.fixres.arms import ARMS
from trainables.models.device import pick_device, precision_of
from trainables.models.parts.tensor_names import STATISTICS
from trainables.profiling.disk_use import (
    FLOAT_BYTES,
    HALF_BYTES,
    checkpoint_bytes,
    feature_bytes,
    map_bytes,
)
from trainables.profiling.training_memory import FLOAT, MOMENTS
from trainables.storage.files import files_size
from trainables.transforms.eval_transform import EvalTransform

BF16 = 2  # bytes of a number of the maps that a GPU makes
MODEL_FORMS = 2.9  # of the final model, with all weights each; ONNX has the norms folded into them
# What is known of images that are not decoded yet comes from a sample of them.
SURE_SHARE = 0.9

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class DiskNeeds:
    """The least bytes that a sweep writes, beside the decoded images."""

    pixels: int  # of val as the largest cell shows it its net: in the cache while it is read
    cell: int  # these, and the maps that the net leaves of them
    cell_name: str
    kept_maps: int | None  # images of train that it keeps maps of, where it streams the rest
    views: int  # in the cache, where nothing has to be dropped
    weights: int  # in the store: what trunks start from
    trunks: int  # checkpoints
    cell_trunks: int  # those of trunks that cells are made from, which MLflow keeps too
    cells: int  # features, and val's logits
    passing: int  # features of the largest set that is streamed, with what they are made of
    state: int  # of one trunk in training
    waiting: int  # at most: states of trunks that wait at rungs, beyond their weights
    model: int

    @property
    def store(self) -> int:
        """The most that is in the store and the model's folder at once."""
        cells = max(self.cells + self.model, self.passing)
        return self.weights + self.trunks + max(self.state, cells)


def disk_needs(plan: Plan, map_number_bytes: int) -> DiskNeeds:
    """Count what a plan writes.

    Args:
        map_number_bytes: bytes of each number of the maps that nets leave.
    """
    spec, tests = plan.spec, plan.grid.tests
    variant, res = max(
        ((point.variant, res) for point in plan.points for res in tests[point]),
        key=lambda cell: _cell_bytes(plan, cell[0], cell[1], map_number_bytes),
    )
    checkpoints = {v: checkpoint_bytes(v, len(plan.classes)) for v in spec.grid.variants}
    views: dict[EvalTransform, int] = {}  # Variants of one transform share them.
    for point in plan.points:
        for cell in plan.grid.cells(point):
            transform = plan.transform(point.variant, *cell)
            of_train = _train_pixels(plan, point.variant, transform.test_res)
            views[transform] = max(of_train, views.get(transform, 0))
    of_val = sum(plan.counts["val"] * _view_bytes(transform.test_res) for transform in views)
    of_points = sum(checkpoints[point.variant] for point in plan.points)
    untouched = sum(checkpoints[variant] for variant in plan.untouched_variants)
    smallest = min(checkpoints.values())
    return DiskNeeds(
        pixels=_val_pixels(plan, res),
        cell=_cell_bytes(plan, variant, res, map_number_bytes),
        cell_name=f"{variant} at {res} px",
        kept_maps=_prefix_kept(plan, variant, res) or None,
        views=of_val + sum(views.values()),
        weights=0 if spec.grid.weights == "none" else sum(checkpoints.values()),
        trunks=sum(plan.trunks_at(p) * checkpoints[p.variant] for p in plan.points) + untouched,
        cell_trunks=plan.fixed * of_points + untouched,
        cells=plan.fixed
        * sum(_features(plan, point) + _logits(plan, point) for point in plan.points)
        + sum(_untouched_bytes(plan, variant) for variant in plan.untouched_variants),
        passing=max(
            _passing(plan, point.variant, res) for point in plan.points for res in tests[point]
        ),
        state=_copies(plan)[0] * smallest if spec.trunks.epochs else smallest,
        waiting=(_copies(plan)[1] - 1)
        * sum(_most_waiting(plan, p) * checkpoints[p.variant] for p in plan.points),
        model=int(MODEL_FORMS * smallest),
    )


def _copies(plan: Plan) -> tuple[int, int]:
    """Count the copies of the weights that the state of a trunk holds, at least and at most."""
    moments = [MOMENTS[optimizer] for optimizer in plan.possible("optimizer")]
    averages = [decay > 0 for decay in plan.possible("ema_decay")]
    return 1 + min(moments) + min(averages), 1 + max(moments) + max(averages)


def _most_waiting(plan: Plan, point: Point) -> int:
    """Bound the trunks of a point that wait at rungs."""
    rungs = len(plan.rungs) - 1
    if rungs == 0:
        return 0
    reduction = plan.spec.halving.reduction
    return most_waiting(rungs=rungs, reduction=reduction, trunks=plan.samples_at(point))


def _view_bytes(res: int) -> int:
    return 3 * res**2


def _features(plan: Plan, point: Point) -> int:
    """Count the bytes of the features that the cells of one trunk keep."""
    arms = [ARMS[name] for name in plan.spec.fix.arms]
    val = plan.counts["val"] * any(STATISTICS in arm.changes for arm in arms)
    train = plan.counts["train"] * any(a.fits_features and not a.needs_mild_views for a in arms)
    mild = any(arm.needs_mild_views for arm in arms)
    train += plan.spec.fix.views * plan.counts["train"] * mild
    cells = plan.grid.cells(point)
    of_train = sum(_train_feature_bytes(plan, point.variant, res) for res, _ in cells)
    return len(cells) * val * feature_bytes(point.variant) + train * of_train


def _train_feature_bytes(plan: Plan, variant: str, res: int) -> int:
    """Count the bytes of one train image's features, as cells keep them."""
    is_streamed = plan.streams("train", variant, res)
    return feature_bytes(variant, HALF_BYTES if is_streamed else FLOAT_BYTES)


def _passing(plan: Plan, variant: str, res: int) -> int:
    """Count the bytes of train's features while they are streamed: with the slopes of each.

    Nothing where they are not streamed, no arm is fitted on them, or they have no slopes.
    """
    if not _corrects(plan, variant, res):
        return 0
    return 3 * plan.counts["train"] * feature_bytes(variant, HALF_BYTES)


def _needs_train(plan: Plan) -> bool:
    """Whether cells pass over all train images."""
    return any(ARMS[name].needs_train for name in plan.spec.fix.arms) or plan.has_untouched


def _train_pixels(plan: Plan, variant: str, res: int) -> int:
    """Count the bytes of train as it is shown a net, where that is kept in the cache."""
    pixels = plan.counts["train"] * _view_bytes(res)
    is_kept = not plan.streams("train", variant, res) and pixels <= MAX_KEPT_BYTES
    return pixels if is_kept and _needs_train(plan) else 0


def _val_pixels(plan: Plan, res: int) -> int:
    """Count the bytes of val as it is shown a net: those of train are kept where there is room."""
    return plan.counts["val"] * _view_bytes(res)


def _cell_bytes(plan: Plan, variant: str, res: int, map_number_bytes: int) -> int:
    """Count the bytes of a cell in the cache: what it keeps of its pixels and of its maps."""
    maps = _kept_maps(plan, variant, res) * map_bytes(variant, res, map_number_bytes)
    return _val_pixels(plan, res) + maps


def _kept_maps(plan: Plan, variant: str, res: int) -> int:
    """Count the images whose maps a cell has at once: of train, of val and of val mirrored."""
    val, mirrors = plan.counts["val"], any(ARMS[name].mirrors for name in plan.spec.fix.arms)
    of_val = val
    if plan.streams("val", variant, res):
        of_val, mirrors = val * _trains_through_net(plan), False
    if not plan.streams("train", variant, res):
        return plan.counts["train"] * _needs_train(plan) + of_val + val * mirrors
    of_train = _prefix_kept(plan, variant, res)
    if _trains_through_net(plan):
        return of_train + of_val + val * mirrors
    return of_val + max(of_train, val * mirrors)  # The prefix is let go once it has its features.


def _prefix_kept(plan: Plan, variant: str, res: int) -> int:
    """Count the images of train that maps are kept of, where it is streamed; else none."""
    most = plan.prefix(variant, res)
    if most is None or not plan.streams("train", variant, res):
        return 0
    return most * (_corrects(plan, variant, res) or _trains_through_net(plan))


def _corrects(plan: Plan, variant: str, res: int) -> bool:
    """Whether features of train are made while it streams, and corrected in the end."""
    arms = [ARMS[name] for name in plan.spec.fix.arms]
    fits = any(arm.fits_classifier and not arm.needs_mild_views for arm in arms)
    can_be = names_of(variant).has_statistics and not mixes_channels(variant)
    return plan.streams("train", variant, res) and can_be and (fits or plan.has_untouched)


def _trains_through_net(plan: Plan) -> bool:
    """Whether an arm trains on maps in each epoch, and is scored on all of val's."""
    arms = [ARMS[name] for name in plan.spec.fix.arms]
    return any(arm.fits_classifier and not arm.fits_features for arm in arms)


def _logits(plan: Plan, point: Point) -> int:
    """Count the bytes of the logits of val that the cells of one trunk keep."""
    arms = sum(ARMS[name].plain for name in plan.spec.fix.arms)
    cells = len(plan.grid.cells(point))
    return cells * arms * plan.counts["val"] * len(plan.classes) * FLOAT


def _untouched_bytes(plan: Plan, variant: str) -> int:
    """Count the bytes of features and logits that the cells of an untouched net keep."""
    val, train = plan.counts["val"], plan.counts["train"]
    of_val = val * (feature_bytes(variant) + len(plan.classes) * FLOAT)
    return sum(
        of_val + train * _train_feature_bytes(plan, variant, res)
        for res, _ in plan.untouched_tests(variant)
    )


def is_begun(location: SweepLocation) -> bool:
    """Whether a sweep is continued, which may have done what takes most."""
    return any((location.out / name).exists() for name in (SPEC, "store"))


def check_expected(
    spec: SweepSpec, location: SweepLocation, expected: ExpectedImages, say: Say
) -> Form:
    """Check the room for a new sweep whose images are about to be decoded.

    Says so where it looks too little.

    Returns:
        The form to keep images in: their files where pixels leave no room for what cells need.

    Raises:
        UserError: it is too little.
    """
    plan = expected_plan(spec, expected)
    if plan is None:
        return "decoded"
    needs, free = disk_needs(plan, _map_number_bytes()), _free(location.out)
    if location.remote is None and SURE_SHARE * needs.store > free:
        raise _out_too_small(plan, needs.store, free, location)
    if on_cluster():  # There its trials run on disks that are not seen from here.
        return "decoded"
    return _check_expected_cache(spec, needs, expected, say)


def _check_expected_cache(
    spec: SweepSpec, needs: DiskNeeds, expected: ExpectedImages, say: Say
) -> Form:
    room = room_in(spec.cache)

    def lacks(images: int) -> int:
        return max(images + needs.cell - room.disk, images + needs.pixels - room.least)

    def surely_lacks(images: int) -> bool:
        return lacks(images) > (1 - SURE_SHARE) * (images + needs.cell)

    form: Form
    form, kept = "decoded", expected.stored_bytes
    if (kept > room.least or surely_lacks(kept)) and expected.file_bytes < kept:
        form, kept = "encoded", expected.file_bytes
    if lacks(kept) <= 0:
        return form
    words = (
        f"he images take about {size_in_words(kept)} and the largest cell "
        f"({needs.cell_name}) about {size_in_words(needs.cell)} beside them, and "
        f"{_room_in_words(spec, room)}"
    )
    if surely_lacks(kept) and not expected.splits_are_guessed:
        raise UserError(f"T{words}: {_smaller_cell(spec)}.")
    say(f"warning: t{words}, which may be too little")
    return form


def check_disks(plan: Plan, location: SweepLocation, say: Say, *, begun: bool) -> None:
    """Say what the sweep will write and how much room there is, and check that it can suffice.

    Args:
        begun: the sweep is continued: a warning is all it gets.

    Raises:
        UserError: it cannot suffice.
    """
    needs = disk_needs(plan, _map_number_bytes())
    problems = [_cache_problem(plan.spec, needs, say), _out_problem(plan, needs, location, say)]
    for problem in filter(None, problems):
        if not begun:
            raise problem
        say(f"warning: {problem}")


def _cache_problem(spec: SweepSpec, needs: DiskNeeds, say: Say) -> UserError | None:
    what = f"{size_in_words(needs.cell)} for the largest cell ({needs.cell_name}"
    if needs.kept_maps is not None:
        what += f", whose maps are kept of {needs.kept_maps:,} images"
    what += ")"
    kept = f"{size_in_words(needs.views)} where all views are kept"
    if on_cluster():
        say(f"disk     cache: {what} on a node, {kept}")
        return None
    room = room_in(spec.cache)
    say(f"disk     cache: {what}, {kept}; {_room_in_words(spec, room)}")
    if needs.cell <= room.disk and needs.pixels <= room.least:
        return None
    return UserError(
        f"The largest cell ({needs.cell_name}) takes {size_in_words(needs.cell)} for its images "
        f"and maps, and {_room_in_words(spec, room)}: {_smaller_cell(spec)}."
    )


def _out_problem(
    plan: Plan, needs: DiskNeeds, location: SweepLocation, say: Say
) -> UserError | None:
    spec, free = plan.spec, _free(location.out)
    if isinstance(location.store.root, Path):
        least, what = needs.store, "all trunks, cells and the model"
        written = files_size(location.store.root)
    else:
        least, what, written = needs.model, "the model", 0
    tracked_elsewhere = spec.tracking.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    copies = 0 if tracked_elsewhere else needs.cell_trunks + needs.model
    words = f"disk     out: {size_in_words(least)} for {what}"
    at_rungs = needs.waiting if isinstance(location.store.root, Path) else 0
    words += f", up to {size_in_words(at_rungs)} while trunks wait at rungs" if at_rungs else ""
    if needs.passing:
        words += f", up to {size_in_words(needs.passing)} for the features of a cell that streams"
    words += f", {size_in_words(copies)} for MLflow's copies" if copies else ""
    words += f", {size_in_words(written)} of it written" if written else ""
    say(f"{words}; {size_in_words(free)} free in {location.out}")
    if least - written > free:
        return _out_too_small(plan, least - written, free, location)
    if least - written + at_rungs > free:
        say(
            f"warning: {location.out} may become too full while trunks wait at rungs: try fewer "
            "--samples, or give an --out on a larger disk"
        )
    if least - written + copies > free:
        say(
            f"warning: {location.out} may become too full for MLflow's copies of checkpoints: give "
            "--tracking-uri, or an --out on a larger disk"
        )
    return None


def _out_too_small(plan: Plan, least: int, free: int, location: SweepLocation) -> UserError:
    return UserError(
        f"{plan.trunks} trunk(s) and {plan.cells} cell(s) take {size_in_words(least)} at least, "
        f"and --out {location.out} has {size_in_words(free)} free: try fewer --samples or "
        "--variants, or name a folder on a larger disk."
    )


def _smaller_cell(spec: SweepSpec) -> str:
    bound = "" if spec.images.cache_gb is None else "a larger --cache-gb or "
    return f"test at lower resolutions (--test-res), or name {bound}a --cache-dir on a larger disk"


def _room_in_words(spec: SweepSpec, room: Room) -> str:
    """Say how much room there is, and what bounds it."""
    disk, own = size_in_words(room.disk), spec.images.cache_gb
    if room.bound is not None and room.bound < room.disk:
        by = "another sweep's --cache-gb" if own is None else f"--cache-gb {own:g}"
        disk = f"{size_in_words(room.bound)} of {by} ({disk} of disk)"
    return f"--cache-dir {spec.cache} has room for {disk}"


def _map_number_bytes() -> int:
    return FLOAT if precision_of(pick_device()) == "fp32" else BF16


def _free(folder: Path) -> int:
    """Look up the bytes that are free where a folder is, or is to be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
