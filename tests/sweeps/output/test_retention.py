"""What stays of a finished sweep, and what is really gone from the disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sweeps.output.retention import (
    check_not_pruned,
    deletable_files,
    is_pruned,
    keys_to_retain,
    prune,
)
from sweeps.selection.choice import Choice
from tests.factories import a_row
from trainables.errors import UserError
from trainables.storage.artifact_store import Store

# Dearer and better from left to right but for the third, which is dearer and worse.
ROWS = [
    a_row(hits, 100, trunk=f"t{i}", cell=f"c{i}", gmacs=gmacs, memory_mb=gmacs, params_m=gmacs)
    for i, (hits, gmacs) in enumerate([(60, 1.0), (80, 2.0), (70, 3.0), (90, 4.0)])
]
TEST = a_row(9, 10, split="test", trunk="again", cell="cagain")
CHOICE = Choice(row=ROWS[1], reason="It is the best.", optimism=0.0)


FEATURES = (
    *("train.arrow", "val.arrow", "train-mild-0.arrow", "train-00000.arrow"),
    *("train-00001.raw.safetensors", "train.moments.safetensors"),  # of a pass that was cut off
)


@pytest.fixture
def store(tmp_path: Path) -> Store[Path]:
    store = Store(tmp_path)
    for trunk in ("t0", "t1", "t2", "t3", "never fixed", "again"):
        put(store.trunk(trunk) / "trunk.safetensors", 1000)
        put(store.trunk(trunk) / "spec.json", 1)
    for cell in ("c0", "c1", "c2", "c3", "cagain"):
        kept = ("delta-fix.safetensors", "logits-fix.arrow")
        for name in (*kept, *FEATURES):
            put(store.cell(cell) / name, 100)
        for name in ("rows.json", "predictions.arrow"):
            put(store.cell(cell) / name, 1)
    return store


def put(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


@pytest.mark.parametrize(
    ("keep", "trunks"),
    [
        ("all", {"t0", "t1", "t2", "t3", "never fixed", "again"}),
        ("front", {"t0", "t1", "t3", "again"}),
        ("best", {"t1", "again"}),
    ],
)
def test_checkpoints_that_lost_and_all_features_are_deleted(
    store: Store[Path], keep: str, trunks: set[str]
) -> None:
    everything = sum(p.stat().st_size for p in store.root.rglob("*") if p.is_file())
    retained = keys_to_retain([*ROWS, TEST], CHOICE, keep)
    freed = prune(store, retained)
    left = {p.parent.name for p in store.root.rglob("trunk.safetensors")}
    assert left == trunks
    for name in ("delta-fix.safetensors", "logits-fix.arrow"):
        cells = {p.parent.name for p in store.root.rglob(name)}
        assert cells == {f"c{trunk.removeprefix('t')}" for trunk in trunks - {"never fixed"}}
    for name in FEATURES:
        assert bool(list(store.root.rglob(name))) == (keep == "all")
    assert len(list(store.root.rglob("predictions.arrow"))) == 5
    after = sum(p.stat().st_size for p in store.root.rglob("*") if p.is_file())
    assert everything - after == freed and (freed > 0) == (keep != "all")
    assert deletable_files(store, retained) == [] and prune(store, retained) == 0


@pytest.mark.parametrize(
    ("untouched", "refit", "stays"),
    [(True, False, True), (True, True, False), (False, False, False)],
)
def test_the_untouched_net_that_the_choice_is_counted_from_stays(
    store: Store[Path], untouched: bool, refit: bool, stays: bool
) -> None:
    """A further test set is read for both; a refit is not compared."""
    rows = [ROWS[0], ROWS[1], *(replace(r, untouched=untouched) for r in ROWS[2:]), TEST]
    retained = keys_to_retain(rows, CHOICE, "best", refit=refit)
    prune(store, retained)
    best = rows[3]  # of the two untouched
    assert is_pruned(store, best, changes=True) is not stays
    assert is_pruned(store, rows[2], changes=True) and is_pruned(store, rows[0], changes=True)
    assert not is_pruned(store, CHOICE.row, changes=True)


@pytest.mark.parametrize("refit", [False, True])
def test_what_the_choice_started_from_stays_for_a_refit(store: Store[Path], refit: bool) -> None:
    child = replace(ROWS[1], parent="t0", parent_res=48)
    choice = replace(CHOICE, row=child)
    rows = [ROWS[0], child, replace(ROWS[2], parent="never fixed", parent_res=48), TEST]
    prune(store, keys_to_retain(rows, choice, "best", refit=refit))
    left = {p.parent.name for p in store.root.rglob("trunk.safetensors")}
    assert left == {"t1", "again", *(["t0"] if refit else [])}


def test_a_row_whose_checkpoints_are_gone_is_refused(store: Store[Path]) -> None:
    prune(store, keys_to_retain([*ROWS, TEST], CHOICE, "best"))
    check_not_pruned(store, ROWS[1], changes=True)
    with pytest.raises(UserError, match="were pruned"):
        check_not_pruned(store, ROWS[3], changes=True)
