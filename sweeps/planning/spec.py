"""A sweep's spec: all its options, and the identity that tells one sweep from another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any

from sweeps.planning.options.budget_options import BudgetOptions
from sweeps.planning.options.groups import (
    DataOptions,
    EvaluationOptions,
    FixOptions,
    GridOptions,
    HalvingOptions,
    OutputOptions,
    ResourceOptions,
    RunOptions,
    ServingOptions,
    TrackingOptions,
    TrunkOptions,
)
from sweeps.planning.options.latency_options import LatencyOptions
from sweeps.planning.options.search_options import SearchOptions
from sweeps.planning.options.words import option, value_in_words
from sweeps.redaction import redacted
from trainables.data.options import ReadOptions
from trainables.errors import with_option_names
from trainables.sources.class_names import class_order_of
from trainables.storage.hashing import to_jsonable
from trainables.storage.typed import checked
from trainables.transforms.resolution import TEST_CROP_PCT


@dataclass(frozen=True, kw_only=True)
class SweepSpec:
    """Find the EfficientNet, train resolution and test resolution that serve best."""

    images: DataOptions = field(default_factory=DataOptions)
    grid: GridOptions = field(default_factory=GridOptions)
    trunks: TrunkOptions = field(default_factory=TrunkOptions)
    search: SearchOptions = field(default_factory=SearchOptions)
    halving: HalvingOptions = field(default_factory=HalvingOptions)
    fix: FixOptions = field(default_factory=FixOptions)
    serving: ServingOptions = field(default_factory=ServingOptions)
    latency: LatencyOptions = field(default_factory=LatencyOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    resources: ResourceOptions = field(default_factory=ResourceOptions)
    budget: BudgetOptions = field(default_factory=BudgetOptions)
    tracking: TrackingOptions = field(default_factory=TrackingOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    run: RunOptions = field(default_factory=RunOptions)

    @property
    def read(self) -> ReadOptions:
        """The options for reading, splitting and caching the images."""
        return ReadOptions(
            val_share=self.images.val_share,
            test_share=self.images.test_share,
            pick_share=self.images.pick_share,
            group_by=self.images.group_by,
            seed=self.run.seed,
            max_corrupt=self.images.max_corrupt,
            cache_side=self.images.cache_side,
            cache_gb=self.images.cache_gb,
            layout=self.images.layout,
            class_order=class_order_of(self.images.class_order),
        )

    @property
    def cache(self) -> Path:
        """The folder in which each node keeps decoded images, as an absolute path."""
        return self.images.cache_dir.expanduser().resolve()

    @property
    def extra_test_sets(self) -> dict[str, str]:
        """The folder or URI of each extra test set, by name."""
        pairs = (given.partition("=") for given in self.evaluation.also_test)
        return {name: source for name, _, source in pairs}

    @property
    def cascade_epochs(self) -> int:
        """Epochs of a trunk that starts from another: fewer, as part of the way is behind it."""
        given = self.grid.cascade_epochs
        return max(1, self.trunks.epochs // 2) if given is None else given

    @property
    def cascade_samples(self) -> int:
        """Trunks of a point where they start from others."""
        given = self.grid.cascade_samples
        return self.search.samples if given is None else given


def as_written_now(written: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by name, as JSON values, with those of 0.1.0 in the words of today.

    It had one price, as a number.

    It had one crop ratio for all arms; but the arm none had that of the weights, and crop1 was what
    none is now. The ratios together are asked for in its place: what it worked out is part of it.
    """
    if "untouched" not in written and written.get("epochs") == 0:
        written = {**written, "untouched": False}
    price = written.get("price_per_hour", ())
    if price is None or isinstance(price, (int, float)):
        written = {**written, "price_per_hour": [] if price is None else [f"{price:g}"]}
    crop, arms = written.get("test_crop_pct"), written.get("arms")
    if isinstance(crop, (list, tuple)) or (crop is None and "crop1" not in (arms or ())):
        return dict(written)
    first = SweepSpec().fix
    arms = list(first.arms) if arms is None else arms
    kept = [arm for arm in arms if arm != "crop1"]
    if "crop1" in arms and "none" not in arms:
        kept.insert(0, "none")
    crops = [TEST_CROP_PCT if crop is None else crop]
    if "none" in arms:
        crops.insert(0, "weights")
    return {**written, "arms": kept, "test_crop_pct": crops}


def spec_from_json(value: Mapping[str, Any]) -> SweepSpec:
    """Read a spec from its JSON, an object of groups of options; raises anything for others.

    Names of options are unique: an option is known by its name, in whatever group an earlier
    version wrote it. An option that is missing is at its default.
    """
    options_by_name = {name: v for options in value.values() for name, v in options.items()}
    written = as_written_now(options_by_name)
    groups = {}
    for group in fields(SweepSpec):
        kind = type(getattr(SweepSpec(), group.name))
        present = [f for f in fields(kind) if f.name in written]
        options = kind(**{f.name: _from_json(f, written[f.name]) for f in present})
        groups[group.name] = checked(options)
    return SweepSpec(**groups)


def _from_json(declared: Field[Any], value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if value is not None and "Path" in str(declared.type) else value


# These options say where and how fast a sweep runs, not what comes out: a sweep may be continued
# with other values of them.
NOT_IDENTITY = frozenset(
    (
        *("data", "cache_dir", "cache_gb", "max_corrupt"),
        # The digest of the images has what these decide.
        *("layout", "class_order", "pick_share", "group_by"),
        *("out", "storage", "link_days", "int8", "openvino", "keep", "events", "on_end"),
        *("concurrency", "cpus_per_trial", "gpus_per_trial", "gpu_memory_gb", "precision"),
        "speed_ups",
        *("accelerator_type", "workers_per_trial", "cluster_gpus", "max_minutes_per_trial"),
        *("also_test", "dry_run", "remake", "config", "print_config", "status"),
        *("budget_hours", "budget_gpu_hours", "budget_cost", "price_per_hour"),
        *("tracking_uri", "experiment", "register_as", "register_if"),
    )
)


# What a sweep is over. A sweep may be continued with more of it, and then does only what is new, or
# with less, and is then viewed so: what trunks and cells came to stays as it is.
EXTENDING = frozenset(
    (
        *("variants", "train_res", "test_res", "test_crop_pct", "untouched", "screen"),
        *("samples", "cascade_samples", "repeat", "survivors", "arms"),
        *("head_lr", "head_smoothing", "head_weight_decay", "head_optimizer"),
        "head_class_weights",
    )
)


def identity(spec: SweepSpec, images_digest: str) -> dict[str, Any]:
    """Return the identity of a sweep: the digest of its images, and the options that bind it.

    Those are the options that decide what comes out, by name, as JSON values.
    """
    return {"images": images_digest} | {
        name: value for name, value in options_by_name(spec).items() if name not in NOT_IDENTITY
    }


def options_by_name(spec: SweepSpec) -> dict[str, Any]:
    """Return all options as JSON values by their names, which are unique."""
    groups = to_jsonable(spec).values()
    return {name: value for options in groups for name, value in options.items()}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say in words what differs between two identities.

    An option that one of them was written without is at its default there.
    """
    return list(_differing(old, new).values())


def binding_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say in words which differences of two identities would change what is finished."""
    return [words for name, words in _differing(old, new).items() if name not in EXTENDING]


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """Say in words what differs between two identities, by the name of the option."""
    defaults = options_by_name(SweepSpec())
    old, new = as_written_now(old), as_written_now(new)
    before, after = ({**defaults, **identity} for identity in (old, new))
    was, now = _in_any_order(before), _in_any_order(after)
    return {
        name: f"{option(name)} {'were' if name == 'images' else 'was'} "
        f"{value_in_words(before.get(name))}, now {value_in_words(after.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if was.get(name) != now.get(name)
    }


def _in_any_order(options: Mapping[str, Any]) -> dict[str, Any]:
    """Sort the lists in which the order of what is typed decides nothing."""
    lists = ("variants", "train_res", "test_res", "test_crop_pct")
    found = {name: options[name] for name in lists if isinstance(options[name], (list, tuple))}
    return {**options, **{name: sorted(value, key=str) for name, value in found.items()}}


def with_options(message: str) -> str:
    """Word an error's message for the command line: settings as options, secrets masked."""
    options = {name: option(name) for name in (*options_by_name(SweepSpec()), "latency")}
    options["variant"] = option("variants")
    return redacted(with_option_names(message, options))
