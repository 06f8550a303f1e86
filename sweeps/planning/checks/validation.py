"""Check a spec: every option within its range, and options that contradict each other refused.

An error names the option, the value and what to give instead, in one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from sweeps.planning.checks.search_checks import check_search
from sweeps.planning.options import touched
from sweeps.planning.options.groups import ServingOptions, TrunkOptions
from sweeps.planning.options.latency_options import LatencyOptions
from sweeps.planning.options.prices import prices_of
from sweeps.planning.options.ranges import INTERVAL_OPTIONS, RANGE_OF_OPTION, SET_OPTIONS
from sweeps.planning.options.words import option, value_in_words
from sweeps.planning.search import Search, search_of
from sweeps.planning.spec import SweepSpec
from trainables.errors import UserError, is_utf8, printable
from trainables.export.openvino_format import check_installed
from trainables.fixres.arms import ARMS, RETIRED
from trainables.sources.splits import SPLITS
from trainables.storage.hashing import to_jsonable
from trainables.storage.object_store import place_of
from trainables.training.class_balance import check_balance

# Words that may not be empty.
NAME_OPTIONS = ("experiment", "register_as", "weights", "class_order")
# What is off until it is asked for, and is of how trunks are trained alone.
TRAINING_OPTIONS = (
    *("auto_augment", "mixup", "cutmix", "random_erasing"),
    *("clip_grad", "drop_path", "layer_decay", "ema_warmup"),
    *("head_only_epochs", "freeze_batch_norm"),
)


def check_spec(spec: SweepSpec) -> SweepSpec:
    """Check all options of a spec, and return it.

    Raises:
        UserError: says the first thing that is wrong with it.
    """
    values = _values(spec)
    for name, value in values.items():
        _check_text(name, value)
    for name in NAME_OPTIONS:
        if not values[name].strip():
            raise UserError(f"{option(name)} is empty: give a name.")
    for name in SET_OPTIONS:
        if not isinstance(values[name], str):  # Resolutions may be a word, such as "native".
            _check_set(name, values[name])
    for name in values["variants"]:
        touched.names_of(name)
    _check_reading(spec)
    for name in RANGE_OF_OPTION:
        _check_range(name, values[name])
    for name in INTERVAL_OPTIONS:
        if values[name] is None:  # it is found once images are read
            continue
        low, high = values[name]
        if low > high:
            raise UserError(f"{option(name)} {low} {high} is no range: give the lower end first.")
    _check_combinations(spec)
    check_latency(spec.latency)
    if spec.output.openvino:
        check_installed("--openvino")
    _check_sources(spec)
    _check_folders(spec)
    return spec


def _check_text(name: str, value: Any) -> None:
    """Check that what is given can be written into the results: a file's name may be no UTF-8."""
    for part in value if isinstance(value, tuple) else (value,):
        if isinstance(part, (str, Path)) and not is_utf8(str(part)):
            raise UserError(
                f"{option(name)} {printable(str(part))} is not UTF-8: rename it, or give a link to"
                " it."
            )


def _check_reading(spec: SweepSpec) -> None:
    """Check the shares of splits, the order of classes and what else decides on reading."""
    _ = spec.read


def check_serving(serving: ServingOptions) -> None:
    """Check the limits on the model that is chosen.

    Raises:
        UserError: nothing could be within one of them.
    """
    for field in fields(serving):
        _check_range(field.name, getattr(serving, field.name))


def check_latency(latency: LatencyOptions) -> None:
    """Check how latency is to be measured.

    Raises:
        UserError: it cannot be measured so.
    """
    for field in fields(latency):
        if field.name in RANGE_OF_OPTION:
            _check_range(field.name, getattr(latency, field.name))
    if latency.latency_runtime == "openvino":
        check_installed("--latency-runtime openvino")


def _check_range(name: str, value: Any) -> None:
    allowed = RANGE_OF_OPTION[name]
    for number in value if isinstance(value, tuple) else (value,):
        if number is None or isinstance(number, str):
            continue
        if not allowed.admits(number):
            raise UserError(f"{option(name)} {number} is out of bounds: give {allowed}.")


def _values(spec: SweepSpec) -> dict[str, Any]:
    """Return the values of all options by their names, which are unique."""
    groups = [getattr(spec, group.name) for group in fields(spec)]
    return {field.name: getattr(group, field.name) for group in groups for field in fields(group)}


def _check_set(name: str, values: tuple[Any, ...]) -> None:
    if not values:
        raise UserError(f"{option(name)} is empty: give at least one value.")
    if len(set(values)) != len(values):
        raise UserError(f"{option(name)} {value_in_words(list(values))}: give each value once.")


def _check_combinations(spec: SweepSpec) -> None:
    """Check the options that bound or exclude each other."""
    _check_training(spec)
    check_search(spec)
    _check_pretrained(spec)
    _check_arms(spec)
    _check_prices(spec)


def _check_prices(spec: SweepSpec) -> None:
    budget, prices = spec.budget, prices_of(spec.budget.price_per_hour)
    if budget.budget_cost is not None and not prices.highest:
        raise UserError(
            f"--budget-cost {budget.budget_cost:g} has no price to count by: give --price-per-hour."
        )


def _check_training(spec: SweepSpec) -> None:
    search = search_of(spec)
    for sampling in search.possible("sampling", spec.trunks):
        for weights in search.possible("class_weights", spec.trunks):
            check_balance(sampling, weights)
    if spec.trunks.epochs == 0 and spec.trunks.sampling != "uniform":
        raise UserError(
            f"--sampling {spec.trunks.sampling} is of what training draws, and --epochs 0 trains "
            "nothing: weigh the classes of classifiers by --head-class-weights balanced."
        )
    _check_start(spec, search)
    _check_untrained(spec)
    drop_path = max(search.possible("drop_path", spec.trunks))
    for variant in spec.grid.variants if drop_path and spec.trunks.epochs else ():
        touched.check_drop_path(variant, drop_path)
    warmup = max(search.possible("warmup_epochs", spec.trunks))
    if 0 < spec.trunks.epochs < warmup:
        raise UserError(
            f"--warmup-epochs {warmup} is more than --epochs {spec.trunks.epochs}: warm up for "
            "less."
        )
    _check_cascade(spec, warmup)
    workers = spec.resources.given_workers or 1
    batch = min(search.possible("batch_size", spec.trunks))
    if workers > 1 and batch < 2 * workers:  # See the range of batch_size.
        raise UserError(
            f"--workers-per-trial {workers} shares a --batch-size of {batch}: give at least two "
            "images for each worker."
        )
    if spec.resources.cluster_gpus is not None and spec.resources.workers_per_trial != "auto":
        raise UserError(
            f"--cluster-gpus {spec.resources.cluster_gpus} is for --workers-per-trial auto: give "
            "that too, or leave it out."
        )


def _check_start(spec: SweepSpec, search: Search) -> None:
    """Check what a trunk begins with, and what of it does not train at once."""
    if spec.grid.weights == "none" and any(search.possible("freeze_batch_norm", spec.trunks)):
        raise UserError(
            "--freeze-batch-norm keeps the statistics of the weights, and --weights none has none: "
            "leave one of the two out."
        )
    if spec.grid.weights == "none" and "probe" in search.possible("start", spec.trunks):
        raise UserError(
            "--start probe fits a classifier to what the weights see, and --weights none has none: "
            "leave one of the two out."
        )
    head_only = max(search.possible("head_only_epochs", spec.trunks))
    if spec.trunks.epochs == 0 and "probe" in search.possible("start", spec.trunks):
        raise UserError(
            "--start probe is what training begins with, and --epochs 0 trains nothing: leave it "
            "out, as the arm fix fits classifiers to untouched nets."
        )
    if 0 < spec.trunks.epochs <= head_only:
        raise UserError(
            f"--head-only-epochs {head_only} leaves none of --epochs {spec.trunks.epochs} to the "
            "net: give fewer, or more --epochs."
        )


def _check_untrained(spec: SweepSpec) -> None:
    """Refuse options of how trunks are trained, where none is."""
    if spec.trunks.epochs:
        return
    for name in TRAINING_OPTIONS:
        value = getattr(spec.trunks, name)
        if value != getattr(TrunkOptions, name):
            given = option(name) if value is True else f"{option(name)} {value}"
            raise UserError(
                f"{given} is of how trunks are trained, and --epochs 0 trains none: leave it out, "
                "or train for some epochs."
            )


def _check_cascade(spec: SweepSpec, warmup: float) -> None:
    epochs, given = spec.cascade_epochs, spec.grid.cascade_epochs
    if not spec.grid.cascade:
        for name in ("cascade_epochs", "cascade_samples"):
            if (value := getattr(spec.grid, name)) is not None:
                raise UserError(
                    f"{option(name)} {value} is of trunks that start from others: give --cascade "
                    "too, or leave it out."
                )
        return
    if spec.cascade_samples > spec.search.samples:
        raise UserError(
            f"--cascade-samples {spec.cascade_samples} is more than --samples "
            f"{spec.search.samples}, the trunks of each variant at its smallest train resolution: "
            "give at most as many."
        )
    fixed = min(spec.fix.survivors, spec.search.samples)
    if spec.cascade_samples < fixed:
        raise UserError(
            f"--cascade-samples {spec.cascade_samples} trains fewer trunks than --survivors "
            f"{spec.fix.survivors} asks for the cells: give at least {fixed}, or fewer --survivors."
        )
    resolutions = spec.grid.train_res
    if spec.trunks.epochs == 0 or resolutions == "native" or len(resolutions) == 1:
        what = (
            "--epochs 0 trains none"
            if spec.trunks.epochs == 0
            else (f"--train-res {value_in_words(to_jsonable(resolutions))} has one of each variant")
        )
        raise UserError(
            "--cascade starts trunks from those of a smaller train resolution, and "
            f"{what}: leave it out."
        )
    if epochs < warmup:
        name = "half of --epochs" if given is None else "--cascade-epochs"
        raise UserError(
            f"--warmup-epochs {warmup} is more than the epochs of a trunk that starts from another "
            f"by --cascade ({epochs}, {name}): warm up for less, or give more."
        )


def _check_pretrained(spec: SweepSpec) -> None:
    if spec.grid.screen < 1 and not (spec.grid.untouched and spec.trunks.epochs):
        without = "--epochs 0 trains none" if spec.grid.untouched else "--no-untouched has none"
        raise UserError(
            f"--screen {spec.grid.screen:g} ranks what is trained by the untouched nets, and "
            f"{without}: leave one of the two out."
        )
    if spec.grid.screen < 1 and spec.grid.weights == "none":
        raise UserError(
            f"--screen {spec.grid.screen:g} ranks by the nets as their weights come, and "
            "--weights none has none: leave one of the two out."
        )
    if spec.grid.recipe != "own" and spec.images.data is None:
        raise UserError(
            f"--recipe {spec.grid.recipe} is for ImageNet: give its folder as --data DIR."
        )
    if spec.trunks.epochs == 0 and spec.images.data is None:
        raise UserError(
            "--epochs 0 takes the weights as they are, classifier and all: give the images that it "
            "was trained on as --data DIR."
        )
    if spec.trunks.epochs == 0 and spec.grid.weights == "none":
        raise UserError(
            "--epochs 0 takes the weights as they are, and --weights none has none: train for some "
            "epochs, or leave the option out."
        )


def check_arm_names(names: Iterable[str]) -> None:
    """Check that arms that are asked for have not been given up.

    Raises:
        UserError: one has; says what does the same.
    """
    for name in names:
        if name in RETIRED:
            raise UserError(f"--arms {name} is no arm any more: {RETIRED[name]}.")


def _check_arms(spec: SweepSpec) -> None:
    check_arm_names(spec.fix.arms)
    if "fix_aug" in spec.fix.arms and not any(s > 0 for s in spec.fix.head_smoothing):
        raise UserError(
            "--arms fix_aug trains with label smoothing: give a --head-smoothing above 0, or leave "
            "the arm out."
        )
    if all(not ARMS[name].plain for name in spec.fix.arms):
        raise UserError(
            f"--arms {value_in_words(list(spec.fix.arms))} gives no net to hand over: add one."
        )
    for variant in spec.grid.variants:
        if not any(ARMS[arm].plain and touched.adapts(arm, variant) for arm in spec.fix.arms):
            raise UserError(
                f"--arms {value_in_words(list(spec.fix.arms))} has nothing to adapt in {variant}: "
                f"FixRes touches its {touched.in_words(variant)}; add fix or none."
            )


def _check_folders(spec: SweepSpec) -> None:
    """Check that folders of this machine are named where they are to be, and lie apart."""
    out, cache = spec.output.out, spec.images.cache_dir
    if looks_like_uri(out):
        raise UserError(
            f"--out {out} is a folder of this machine, where the results are put: give a path, and "
            "name an object store by --storage."
        )
    if looks_like_uri(cache):
        raise UserError(f"--cache-dir {cache} is a folder of each node: give a path.")
    data = None if spec.images.data is None else place_of(spec.images.data)
    sources = {"--data": data} | {
        f"--also-test {name}": place_of(where) for name, where in spec.extra_test_sets.items()
    }
    for name, source in sources.items():
        if not isinstance(source, Path) or not source.is_dir():
            continue
        for given, folder in (("--out", out), ("--cache-dir", cache)):
            if folder.expanduser().resolve().is_relative_to(source.resolve()):
                raise UserError(
                    f"{given} {folder} lies in {name} {source}, so that its files would count as "
                    "images: give a folder elsewhere."
                )


def looks_like_uri(folder: Path) -> bool:
    """Whether a path was given as a URI, of which a path keeps one slash: "s3:/bucket"."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(folder)) is not None


def _may_exist(data: str) -> bool:
    """Say whether a path exists, or may: an object store is not asked.

    Raises:
        UserError: it is the URI of no store that is known.
    """
    source = place_of(data)
    return not isinstance(source, Path) or source.exists()


def _check_sources(spec: SweepSpec) -> None:
    """Check that images, weights and extra test sets exist, as far as it shows on this machine."""
    if spec.images.data is not None and not _may_exist(spec.images.data):
        raise UserError(f"--data {spec.images.data} does not exist: give a folder of images.")
    weights = spec.grid.weights
    if weights not in ("auto", "none") and not Path(weights).expanduser().is_dir():
        raise UserError(
            f"--weights {weights} is no folder: give auto, none or a folder of weights."
        )
    for given in spec.evaluation.also_test:
        name, _, folder = given.partition("=")
        if not name or not folder or name in SPLITS:
            raise UserError(
                f"--also-test {given} is not NAME=DIR: give a name (not train, val or test) and a "
                "folder of images."
            )
        if not _may_exist(folder):
            raise UserError(
                f"--also-test {given}: {folder} does not exist: give a folder of images."
            )
    if len(spec.extra_test_sets) != len(spec.evaluation.also_test):
        sets = value_in_words(list(spec.evaluation.also_test))
        raise UserError(f"--also-test {sets}: give each set a name of its own.")
