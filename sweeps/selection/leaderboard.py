"""The leaderboard: a row for each cell, arm and split, to and from an Arrow table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainables.errors import UserError
from trainables.fixres.cell import ArmResult
from trainables.profiling.cost import Cost
from trainables.storage.files import Place, write_file
from trainables.training.trunk import TrunkSpec


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arm of one cell on one split. Resolutions in px, accuracies as shares of ``n``."""

    variant: str
    train_res: int
    test_res: int
    arm: str
    split: str
    n: int
    top1: float
    top5: float
    params_m: float  # millions
    gmacs: float  # billions, one image at test_res
    memory_mb: float  # peak, one image at test_res, float32
    latency_ms: float | None  # one image, median, where the sweep was concluded
    images_s: float | None  # images a second in large batches, likewise
    seconds: float  # that the arm took beside what cheaper arms of its cell had done already
    trunk: str  # key in the store
    cell: str  # key in the store
    trunk_epochs: int
    head_optimizer: str | None
    head_lr: float | None
    head_smoothing: float | None
    head_weight_decay: float | None
    head_epochs: int | None
    head_tried: int  # among how many (setting, epoch) pairs the head was picked, on val

    @property
    def hits1(self) -> int:
        return round(self.top1 * self.n)

    @property
    def place(self) -> str:
        """The cell in words."""
        return f"{self.variant} {self.train_res} -> {self.test_res}"


_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
SCHEMA = pa.schema(
    [
        pa.field(f.name, _TYPES[str(f.type).partition(" ")[0]], nullable="None" in str(f.type))
        for f in fields(Row)
    ]
)


def make_row(
    trunk: TrunkSpec, epochs: int, cell: str, test_res: int, cost: Cost, arm: ArmResult
) -> Row:
    """An arm's result with all that places it."""
    head = arm.head
    return Row(
        variant=trunk.variant,
        train_res=trunk.train_res,
        test_res=test_res,
        arm=arm.arm,
        split=arm.score.split,
        n=arm.score.n,
        top1=arm.score.top1,
        top5=arm.score.top5,
        params_m=cost.params_m,
        gmacs=cost.gmacs,
        memory_mb=cost.memory_mb,
        latency_ms=None,
        images_s=None,
        seconds=arm.seconds,
        trunk=trunk.key,
        cell=cell,
        trunk_epochs=epochs,
        head_optimizer=head.optimizer if head else None,
        head_lr=head.lr if head else None,
        head_smoothing=head.label_smoothing if head else None,
        head_weight_decay=head.weight_decay if head else None,
        head_epochs=head.epochs if head else None,
        head_tried=arm.head_tried,
    )


def to_table(rows: Iterable[Row]) -> pa.Table:
    records = [{f.name: getattr(r, f.name) for f in fields(Row)} for r in rows]
    return pa.Table.from_pylist(records, schema=SCHEMA)


def from_table(arrow: pa.Table) -> list[Row]:
    records: list[dict[str, Any]] = arrow.to_pylist()
    return [Row(**r) for r in records]


def write(path: Place, rows: Iterable[Row]) -> None:
    whole = to_table(rows)
    write_file(path, lambda temporary: pq.write_table(whole, temporary))


def read(path: Path) -> list[Row]:
    """Raises:
    UserError: another version of this wrote it.
    """
    arrow = pq.read_table(path)
    differing = sorted(set(arrow.column_names) ^ set(SCHEMA.names))
    if differing:
        raise UserError(
            f"{path} was written by another version of this (columns that only one of them has: "
            f"{', '.join(differing)}): run the sweep again, in a new --out."
        )
    return from_table(arrow)
