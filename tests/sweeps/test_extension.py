"""A sweep is continued with more, and does only what is new; with less it is a view."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeps import sweep as story
from tests.factories import spec_with
from tests.fake_sweep import FakeSweep, contents, score_choice
from trainables.errors import UserError
from trainables.fixres.cell import recorded_spec
from trainables.storage.artifact_store import Store
from trainables.storage.files import write_json

pytestmark = pytest.mark.slow  # all of them together

MORE: dict[str, dict[str, Any]] = {
    "samples": {"samples": 4},
    "a variant": {"variants": ("b0", "b1")},
    "a train resolution": {"train_res": (64, 96, 128)},
    "a test resolution": {"test_res": (64, 96, 128)},
    "a crop": {"test_crop_pct": ("weights", 0.9, 1.0)},
    "survivors": {"survivors": 2},
    "repeats": {"repeat": 3},
}


def run(sweep: FakeSweep, **options: Any) -> str:
    sweep.spec = spec_with(sweep.spec, **options)
    sweep.made.clear()
    return sweep.run()


def reused(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("reused")]


def board(out: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(out / "leaderboard.parquet").to_pylist()
    return rows


def worth(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the keys of its cell, which name all arms, in the order of the command."""
    return {name: value for name, value in row.items() if name != "cell"}


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("trunk", "test_res", "crop_pct", "arm"))


def trained_epochs(out: Path) -> dict[str, int]:
    results = out.glob("store/trunks/*/result.json")
    return {path.parent.name: len(json.loads(path.read_text())["reports"]) for path in results}


@pytest.mark.parametrize("what", MORE)
def test_only_what_is_new_is_done_and_the_rows_are_those_of_one_run(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = FakeSweep(tmp_path / "whole", monkeypatch)
    run(whole, grace_epochs=2, **MORE[what])  # no rung: nothing is cut
    sweep = FakeSweep(tmp_path / "steps", monkeypatch)
    run(sweep, grace_epochs=2)
    before, files = set(sweep.made), contents(sweep.out)
    expected = run(sweep, **MORE[what], dry_run=True)
    assert not sweep.made and contents(sweep.out) == files
    said = run(sweep, dry_run=False)
    assert before and sweep.made and not before & set(sweep.made)
    assert "extends  the sweep in" in said
    assert reused(said) == reused(expected) != []
    trunks = len(list((sweep.out / "store" / "trunks").glob("*/result.json")))
    trained = trunks - len({name for name in files if name.endswith("/result.json")})
    assert f", {trained} to train" in reused(said)[0]
    assert board(sweep.out) == board(whole.out)
    # Of more samples another may be the best: then cells of the former best were made too.
    assert set(whole.made) <= {*before, *sweep.made}
    assert not run(sweep).count("extends") and not sweep.made


@pytest.mark.parametrize("what", MORE)
def test_less_is_a_view_that_does_nothing_and_the_way_back_neither(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = FakeSweep(tmp_path / "small", monkeypatch)
    run(small, grace_epochs=2)
    sweep = FakeSweep(tmp_path / "out", monkeypatch)
    old = sweep.spec
    run(sweep, grace_epochs=2, **MORE[what])
    large, trunks = board(sweep.out), trained_epochs(sweep.out)
    sweep.spec = old
    run(sweep, grace_epochs=2)
    assert board(sweep.out) == board(small.out)
    # Among fewer samples another is the best, whose cells were not needed before.
    assert not sweep.made or what == "samples"
    chosen = json.loads((sweep.out / "choice.json").read_text())["chosen"]
    assert chosen["cell"] in {row["cell"] for row in board(sweep.out)}
    assert trained_epochs(sweep.out) == trunks
    run(sweep, **MORE[what])
    assert not sweep.made and board(sweep.out) == large


def test_a_further_test_set_is_read_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = FakeSweep(tmp_path / "out", monkeypatch)
    run(sweep)
    read: list[tuple[str, ...]] = []

    def score(plan: Any, *more: Any) -> Any:
        read.append(plan.spec.evaluation.also_test)
        return score_choice(plan, *more)

    monkeypatch.setattr(story, "score_choice", score)
    monkeypatch.setattr(story, "check_extra_test_sets", lambda *_: {})
    run(sweep, also_test=("odd=/elsewhere",))
    assert not sweep.made and read == [("odd=/elsewhere",)]


def test_arms_that_the_store_has_are_taken_and_a_view_of_them_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = FakeSweep(tmp_path / "out", monkeypatch)
    run(sweep)
    first = {key(row): row["top1"] for row in board(sweep.out) if row["split"] == "val"}
    run(sweep, arms=("none",))
    assert not sweep.made
    view = {key(row): row["top1"] for row in board(sweep.out) if row["split"] == "val"}
    assert view == {k: top1 for k, top1 in first.items() if "none" in k}
    said = run(sweep, arms=("bn", "none"))
    assert not sweep.made
    assert reused(said) == [
        "reused   trunks: 4 of 4 are there, 0 to train",
        "reused   cells: 8 of 8 are there, with 16 of 16 arms; 0 to work out",
    ]


AXES: dict[str, list[Any]] = {
    "variants": [("b0",), ("b1", "b0"), ("b1",)],
    "train_res": [(64,), (96, 64), (128,)],
    "test_res": [(64,), (64, 128), (96, 128)],
    "test_crop_pct": [("weights",), (1.0, "weights"), (0.9,)],
    "arms": [("none",), ("bn", "none"), ("none", "pool", "bn", "frechet")],
    "survivors": [1, 2],
}


@pytest.mark.parametrize("seed", range(4))
def test_whatever_came_before_the_rows_are_those_of_one_run(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of no command that came before depends what a sweep comes to, where no trunk is cut."""
    rng, made = random.Random(seed), Counter[str]()
    sweep = FakeSweep(tmp_path / "steps", monkeypatch)
    for samples in (1, 2, 2, 3):
        command = {name: rng.choice(values) for name, values in AXES.items()}
        run(sweep, grace_epochs=2, samples=samples, **command)
        made += sweep.made
    whole = FakeSweep(tmp_path / "whole", monkeypatch)
    whole.spec = spec_with(sweep.spec, out=whole.out)
    whole.run()
    assert [worth(row) for row in board(sweep.out)] == [worth(row) for row in board(whole.out)]
    assert json.loads((sweep.out / "choice.json").read_text())["chosen"]["cell"] in {
        row["cell"] for row in board(sweep.out)
    }
    trunks = {path.name for path in (sweep.out / "store" / "trunks").iterdir()}
    assert {made[key] for key in trunks} == {2}  # epochs: none twice


def test_what_an_earlier_version_did_not_write_is_made_again_only_if_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = FakeSweep(tmp_path / "out", monkeypatch)
    run(sweep)
    for folder in (sweep.out / "store" / "cells").iterdir():
        new = recorded_spec(Store(sweep.out / "store"), folder.name)
        assert new is not None
        old = replace(new, arms=("none", "crop1", "bn"), none_in_transform=False)
        for path in folder.glob("logits-*.arrow"):
            path.unlink()
        shutil.move(folder, folder.parent / old.key)
        write_json(folder.parent / old.key / "spec.json", old)
    (sweep.out / "choice.json").unlink()
    # All of bn; of none those at the weights' own crop, as others were tested otherwise then.
    with pytest.raises(
        UserError, match=r"lacks files of 12 finished arm\(s\) of cells: .* an earl"
    ):
        run(sweep)
    assert not sweep.made
    assert "again    files of 12 finished arm(s) of cells: made again" in run(sweep, remake=True)
    trunks = {path.name for path in (sweep.out / "store" / "trunks").iterdir()}
    assert sweep.made and not trunks & set(sweep.made)


def test_a_choice_does_not_answer_for_what_it_was_not_made_among(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = FakeSweep(tmp_path / "out", monkeypatch)
    run(sweep)
    first = contents(sweep.out)
    old = sweep.spec
    stop = KeyboardInterrupt()

    def interrupted(*_: object) -> None:
        raise stop

    with monkeypatch.context() as patch:
        patch.setattr("sweeps.sweep.run_phases", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(sweep, test_res=(64, 96, 128))
    sweep.spec = old  # what it was is answered by what there is
    run(sweep)
    assert not sweep.made
    for name in ("choice.json", "leaderboard.parquet", "model/model.safetensors"):
        assert contents(sweep.out)[name] == first[name], name
    run(sweep, test_res=(64, 96, 128))
    assert sweep.made and {row["test_res"] for row in board(sweep.out)} == {64, 96, 128}


def test_what_keep_has_deleted_is_made_again_only_if_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = FakeSweep(tmp_path / "out", monkeypatch)
    run(sweep, keep="best")
    before = contents(sweep.out)
    assert sum(name.endswith("trunk.safetensors") for name in before) == 1
    lost = r"lacks the weights of 1 trunk\(s\), which new cells or trunks need: .* give --remake"
    for dry_run in (True, False):
        with pytest.raises(UserError, match=lost):
            run(sweep, test_res=(64, 96, 128), dry_run=dry_run)
        assert contents(sweep.out) == before
    with pytest.raises(UserError, match=r"and files of \d+ finished arm\(s\) of cells"):
        run(sweep, test_res=(64, 96, 128), arms=("none", "pool", "bn"))
    assert not run(sweep, test_res=(64, 128), arms=("none", "bn")).count("again") and not sweep.made
    said = run(sweep, test_res=(64, 96, 128), remake=True, keep="all")
    assert "again    the weights of 1 trunk(s), which new cells or trunks need: made again" in said
    assert {row["test_res"] for row in board(sweep.out)} == {64, 96, 128}


def test_what_would_change_what_is_finished_is_refused_by_name_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = FakeSweep(tmp_path / "out", monkeypatch)
    run(sweep)
    before = contents(sweep.out)
    with pytest.raises(UserError, match=r"\(--epochs was 2, now 3\)"):
        run(sweep, samples=4, epochs=3)
    assert contents(sweep.out) == before
