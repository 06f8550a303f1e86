"""The leaderboard: a row for each cell, arm and split, to and from an Arrow table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_origin

import pyarrow as pa
import pyarrow.parquet as pq

from sweeps.planning.cell import Cell, cell_label, train_in_words
from sweeps.planning.options.hyperparameters import hyperparameters
from sweeps.planning.options.space import as_json
from sweeps.planning.search import settings_of
from trainables.errors import UserError
from trainables.evaluation.class_metrics import Metric
from trainables.fixres.arms import ARMS
from trainables.fixres.cell import ArmResult
from trainables.fixres.head_settings import HeadSetting
from trainables.profiling.cost import Cost
from trainables.profiling.latency import Conditions
from trainables.storage.damage import DamagedFileError, damage_told
from trainables.storage.files import Place, write_file
from trainables.storage.hashing import canonical_json
from trainables.storage.typed import checked


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arm of one cell on one split. Resolutions in px, accuracies as shares of ``n``.

    Accuracies are those of the classifier that is kept, which val may have picked; rows compare by
    :meth:`value`, which is cross-fitted then.
    """

    variant: str
    train_res: int
    test_res: int
    crop_pct: float  # side of the centre crop over the resized short side
    arm: str
    split: str
    n: int
    top1: float
    top5: float
    params_m: float  # millions
    gmacs: float  # billions, one image at test_res
    memory_mb: float  # peak, one image at test_res, float32
    latency_ms: float | None  # one request, median; the table says with what it was measured
    images_s: float | None  # images a second in large batches, measured likewise
    seconds: float  # spent on the arm, without work that it shares with cheaper arms of its cell
    trunk: str  # key in the store
    cell: str  # key in the store
    trunk_epochs: int
    head: HeadSetting | None  # how the arm's classifier was fitted; None: it was not
    head_tried: int  # number of (setting, epoch) pairs that the head was picked from, on val
    balanced_accuracy: float | None = None  # mean recall of classes; None: it was not counted
    macro_f1: float | None = None  # mean F1 of classes; None: it was not counted
    untouched: bool = False  # the net as its weights come, not fine-tuned; its classifier is fitted
    # Top-1 minus that of the best untouched row of the variant on the same images, with the
    # standard error of the paired difference; None: there is none, or this is one.
    on_untouched: float | None = None
    on_untouched_error: float | None = None
    # Top-1 and the two metrics of classifiers that one half of val picked and the other judged;
    # None: val picked none, or a former version has kept the row.
    crossfit_top1: float | None = None
    crossfit_balanced_accuracy: float | None = None
    crossfit_macro_f1: float | None = None
    # Number of the trunk among those that differ in their seeds alone; how many of them have this
    # row; and the key of the first: empty, where it is this one's own.
    repeat: int = 0
    repeats: int = 1
    configuration: str = ""
    # Mean and standard deviation, over these repeats, of what each is worth by itself; None: it is
    # the only one, or it was not counted.
    mean_top1: float | None = None
    mean_balanced_accuracy: float | None = None
    mean_macro_f1: float | None = None
    sd_top1: float | None = None
    sd_balanced_accuracy: float | None = None
    sd_macro_f1: float | None = None
    # The trunk that this one started from (its key), and its train resolution, px; empty and 0: it
    # started from the weights as they come.
    parent: str = ""
    parent_res: int = 0
    # Of an untouched net: train resolutions, px, that the screen has left out by its row here.
    left_out: str = ""
    # What the trunk was trained with: each hyperparameter by name, in their order; empty: it was
    # not trained here, or a former version has kept the row.
    trained_with: tuple[tuple[str, Any], ...] = ()

    @property
    def hits1(self) -> int:
        """The number of images whose top-1 is right."""
        return round(self.top1 * self.n)

    def kept_value(self, metric: Metric) -> float:
        """Give the value of the kept classifier, a share; below any other if it was not counted."""
        found: float | None = getattr(self, metric)
        return -1.0 if found is None else found

    def own_value(self, metric: Metric) -> float:
        """Give the value of this training: cross-fitted, if val picked the classifier.

        It is below any other where it was not counted.
        """
        crossed: float | None = getattr(self, f"crossfit_{metric}")
        return self.kept_value(metric) if crossed is None else crossed

    def value(self, metric: Metric) -> float:
        """Give the value that rows compare by, a share: the mean of :meth:`own_value` over repeats.

        It is below any other where it was not counted.
        """
        mean: float | None = getattr(self, f"mean_{metric}")
        return self.own_value(metric) if mean is None else mean

    def spread(self, metric: Metric) -> float:
        """Give the standard deviation over repeats; 0 where there is none."""
        found: float | None = getattr(self, f"sd_{metric}")
        return found or 0.0

    @property
    def first_trunk(self) -> str:
        """The key of the trunk that this one repeats; of one that repeats none, its own."""
        return self.configuration or self.trunk

    @property
    def ranked_top1(self) -> float:
        """Top-1 as :meth:`value`."""
        return self.value("top1")

    @property
    def ranked_hits1(self) -> int:
        """The number of images that :attr:`ranked_top1` has right."""
        return round(self.ranked_top1 * self.n)

    @property
    def is_flattered(self) -> bool:
        """Whether val picked the classifier and ranks it, as in rows of former versions."""
        return self.split == "val" and self.head_tried > 0 and self.crossfit_top1 is None

    @property
    def label(self) -> str:
        """The cell in words: "b0 128 -> 160 px, crop 0.875"."""
        return cell_label(self.variant, self.train_in_words, self.test_res, self.crop_pct)

    @property
    def train_in_words(self) -> str:
        """The train resolution, px, and that of the trunk it started from; or "untouched"."""
        return train_in_words(self.train_res, self.parent_res, untouched=self.untouched)

    @property
    def head_in_words(self) -> str:
        """The classifier's setting in words, and how many were tried; "" if none was fitted."""
        if self.head is None or not self.head_tried:
            return ""
        weights = self.head.class_weights
        weighed = "" if weights == "none" else f"class weights {weights}, "
        return (
            f"{self.head.optimizer}, lr {self.head.lr:g}, smoothing {self.head.label_smoothing:g}, "
            f"weight decay {self.head.weight_decay:g}, {weighed}{self.head.epochs} epochs; "
            f"of {self.head_tried} tried"
        )


# In files, what the trunk was trained with is flat: "with_lr", "with_batch_size" ...
_WITH = "with_"


def _type_of_setting(hint: Any) -> pa.DataType:
    if get_origin(hint) is tuple:
        return pa.list_(pa.float64())
    return {float: pa.float64(), int: pa.int64(), bool: pa.bool_()}.get(hint, pa.string())


_SETTING_TYPES = {_WITH + p.name: _type_of_setting(p.hint) for p in hyperparameters().values()}
# In files, the setting of the head is flat: a column for each of its fields.
_HEAD_COLUMNS = {
    "head_optimizer": "optimizer",
    "head_lr": "lr",
    "head_smoothing": "label_smoothing",
    "head_weight_decay": "weight_decay",
    "head_epochs": "epochs",
    "head_class_weights": "class_weights",
}
_HEAD_TYPES = {  # Others: float64.
    "head_optimizer": pa.string(),
    "head_epochs": pa.int64(),
    "head_class_weights": pa.string(),
}
_TYPES = {"bool": pa.bool_(), "str": pa.string(), "int": pa.int64(), "float": pa.float64()}


def _fields_of_schema() -> Iterator[pa.Field]:
    for field in fields(Row):
        if field.name == "head":
            for column in _HEAD_COLUMNS:
                yield pa.field(column, _HEAD_TYPES.get(column, pa.float64()), nullable=True)
        elif field.name == "trained_with":
            for column, type_ in _SETTING_TYPES.items():
                yield pa.field(column, type_, nullable=True)
        else:
            kind, _, rest = str(field.type).partition(" ")
            yield pa.field(field.name, _TYPES[kind], nullable="None" in rest)


class OtherVersionError(UserError):
    """A leaderboard was written by another version of this."""


LATENCY = "latency"  # metadata of the table: what latencies were measured with, in JSON
SCHEMA = pa.schema(list(_fields_of_schema()))
# A file of a version without these columns is read as one in which they are empty.
ADDED_LATER = frozenset(
    (
        *("balanced_accuracy", "macro_f1"),
        *("untouched", "on_untouched", "on_untouched_error"),
        *("crossfit_top1", "crossfit_balanced_accuracy", "crossfit_macro_f1"),
        *("repeat", "repeats", "configuration", "left_out"),
        *("parent", "parent_res"),
        *("mean_top1", "mean_balanced_accuracy", "mean_macro_f1"),
        *("sd_top1", "sd_balanced_accuracy", "sd_macro_f1"),
        "head_class_weights",
        *_SETTING_TYPES,
    )
)


def to_record(row: Row) -> dict[str, Any]:
    """Flatten a row into plain values by the names of the columns."""
    record: dict[str, Any] = {}
    for field in fields(row):
        value = getattr(row, field.name)
        if field.name == "head":
            record |= {column: getattr(value, name, None) for column, name in _HEAD_COLUMNS.items()}
        elif field.name == "trained_with":
            found = {_WITH + name: as_json(setting) for name, setting in value}
            record |= {column: found.get(column) for column in _SETTING_TYPES}
        else:
            record[field.name] = value
    return record


def from_record(record: Mapping[str, Any]) -> Row:
    """Make a row from a record of :func:`to_record`; raises anything for what is none."""
    setting = {name: record[column] for column, name in _HEAD_COLUMNS.items() if column in record}
    head = None if None in setting.values() else checked(HeadSetting(**setting))
    flat = {*_HEAD_COLUMNS, *_SETTING_TYPES}
    others = {name: value for name, value in record.items() if name not in flat}
    row = checked(Row(**others, head=head, trained_with=tuple(_settings(record))))
    if row.arm not in ARMS or row.n < 1:
        raise ValueError(f"no arm {row.arm} of {row.n} images")
    return row


def _settings(record: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """List what a trunk was trained with; raises anything for a value of another type."""
    for name, parameter in hyperparameters().items():
        value = record.get(_WITH + name)
        if value is not None:
            yield name, parameter.typed(value)


def make_row(cell: Cell, cost: Cost, result: ArmResult) -> Row:
    """Make the row of an arm's result, with the cell's resolutions, keys and serving cost.

    Args:
        cost: of a pass of the net.
    """
    crossfit, cost = result.crossfit or {}, cost.of_passes(ARMS[result.arm].passes)
    return Row(
        variant=cell.variant,
        train_res=cell.trunk.train_res,
        test_res=cell.test_res,
        crop_pct=cell.crop_pct,
        arm=result.arm,
        split=result.score.split,
        n=result.score.n,
        top1=result.score.top1,
        top5=result.score.top5,
        balanced_accuracy=result.score.balanced_accuracy,
        macro_f1=result.score.macro_f1,
        params_m=cost.params_m,
        gmacs=cost.gmacs,
        memory_mb=cost.memory_mb,
        latency_ms=None,
        images_s=None,
        seconds=result.seconds,
        trunk=cell.trunk.key,
        cell=cell.key,
        trunk_epochs=cell.trunk_epochs,
        untouched=cell.trunk.is_untouched,
        head=result.head,
        head_tried=result.head_tried,
        crossfit_top1=crossfit.get("top1"),
        crossfit_balanced_accuracy=crossfit.get("balanced_accuracy"),
        crossfit_macro_f1=crossfit.get("macro_f1"),
        repeat=cell.trunk.repeat,
        configuration=cell.trunk.configuration if cell.trunk.repeat else "",
        parent=cell.trunk.parent.trunk if cell.trunk.parent else "",
        parent_res=cell.trunk.parent.train_res if cell.trunk.parent else 0,
        trained_with=() if cell.trunk.is_untouched else tuple(settings_of(cell.trunk).items()),
    )


def to_table(rows: Iterable[Row]) -> pa.Table:
    """Make an Arrow table of ``SCHEMA`` from rows."""
    return pa.Table.from_pylist([to_record(row) for row in rows], schema=SCHEMA)


def from_table(arrow: pa.Table) -> list[Row]:
    """Read rows from an Arrow table of ``SCHEMA``."""
    records: list[dict[str, Any]] = arrow.to_pylist()
    return [from_record(record) for record in records]


def write(path: Place, rows: Iterable[Row], latency: Conditions | None = None) -> None:
    """Write rows as a Parquet file, whole or not at all.

    Args:
        latency: what latencies were measured with; it becomes metadata of the table.
    """
    whole = to_table(rows)
    if latency is not None:
        whole = whole.replace_schema_metadata({LATENCY: canonical_json(latency)})
    write_table(path, whole)


def write_table(path: Place, table: pa.Table) -> None:
    """Write a table of ``SCHEMA`` as a Parquet file, whole or not at all."""
    write_file(path, lambda temporary: pq.write_table(table, temporary))


def read(path: Path) -> list[Row]:
    """Read rows from a Parquet file.

    Raises:
        OtherVersionError: another version of this wrote it.
        DamagedFileError: it is damaged or missing.
    """
    if not path.exists():
        raise DamagedFileError(path, "it is missing")
    with damage_told(path):
        arrow = pq.read_table(path)
    names = set(arrow.column_names)
    differing = sorted((names - set(SCHEMA.names)) | (set(SCHEMA.names) - names - ADDED_LATER))
    if differing:
        raise OtherVersionError(
            f"{path} was written by another version of this (columns that only one of them has: "
            f"{', '.join(differing)}): run the sweep again, in a new --out."
        )
    with damage_told(path):
        return from_table(arrow)


def crossfit_note(rows: Iterable[Row]) -> str:
    """Say after "top-1" that some rows compare by cross-fitted values or means; "": none does."""
    rows = list(rows)
    crossed = ", cross-fitted" if any(row.crossfit_top1 is not None for row in rows) else ""
    often = {row.repeats for row in rows} - {1}
    if not often:
        return crossed
    number = f"{often.pop()} " if len(often) == 1 else ""
    return f"{crossed}, mean of {number}repeats"


def read_latency_conditions(path: Path) -> Conditions | None:
    """Read what the latencies of a Parquet file were measured with; None: it does not say.

    Raises:
        DamagedFileError: it is damaged.
    """
    with damage_told(path):
        metadata = pq.read_schema(path).metadata or {}
        written = metadata.get(LATENCY.encode())
        return None if written is None else checked(Conditions(**json.loads(written)))
