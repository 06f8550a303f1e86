"""The file of the search space: its forms, what is refused, and what options can say as well."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.planning.options.groups import TrunkOptions
from sweeps.planning.options.hyperparameters import hyperparameters
from sweeps.planning.options.space import (
    Choices,
    Interval,
    absorbed,
    check_entries,
    read_space,
    search_space,
    space_size,
)
from tests.factories import is_one_sentence
from trainables.errors import UserError

quick = settings(max_examples=150, deadline=None, database=None)
OPTIONS = TrunkOptions()


def space_in(tmp_path: Path, text: str) -> Any:
    (tmp_path / "space.yaml").write_text(text)
    return search_space(OPTIONS, read_space(tmp_path / "space.yaml"))


def test_the_three_forms(tmp_path: Path) -> None:
    space = space_in(
        tmp_path,
        """
        lr: {low: 1e-4, high: 1e-2, log: true}
        weight_decay: {low: 0.01, high: 0.1, log: false}
        batch_size: {low: 16, high: 128, log: true}
        optimizer: {choices: [sgd, adamw]}
        crop_scale: {choices: [[0.08, 1], [0.25, 1]]}
        dropout: {choices: [true, false]}
        ema_decay: 0.999
        """,
    )
    assert space == {
        "lr": Interval(low=1e-4, high=1e-2, log=True),
        "weight_decay": Interval(low=0.01, high=0.1),
        "label_smoothing": Interval(low=0.0, high=0.2),
        "batch_size": Interval(low=16, high=128, log=True, integer=True),
        "optimizer": Choices(values=("sgd", "adamw")),
        "ema_decay": Choices(values=(0.999,)),
        "dropout": Choices(values=(True, False)),
        "crop_scale": Choices(values=((0.08, 1.0), (0.25, 1.0))),
    }
    assert list(space) == [name for name in hyperparameters() if name in space]


def test_the_scale_is_the_options_own_unless_it_is_said(tmp_path: Path) -> None:
    ends = "{low: 0.01, high: 0.02}"
    space = space_in(tmp_path, f"lr: {ends}\nweight_decay: {ends}\nlabel_smoothing: {ends}\n")
    assert [dimension.log for dimension in space.values()] == [True, True, False]


def test_the_order_of_entries_does_not_matter(tmp_path: Path) -> None:
    lines = ["hflip: {choices: [0.0, 0.5]}", "lr: 1e-3", "optimizer: sgd"]
    spaces = [
        list(space_in(tmp_path, "\n".join(order)).items())
        for order in itertools.permutations(lines)
    ]
    assert all(space == spaces[0] for space in spaces)


REFUSED = [
    ("", "holds no entries"),
    ("[lr]", "holds no entries"),
    ("lr", "holds no entries"),
    ("{}", "holds no entries"),
    ("learning_rate: 1e-3", "learning_rate is none of lr, weight_decay, label_smoothing, batch"),
    ("epochs: 3", "epochs is none of lr"),
    ("samples: 3", "samples is none of lr"),
    ("lr: fast", "lr has fast, which is not a number"),
    ("lr: [1e-4, 1e-2]", "lr has [0.0001, 0.01], which is not a number"),
    ("lr: {low: 1e-4}", "lr is in none of the three forms"),
    ("lr: {low: 1e-4, high: 1e-2, step: 2}", "lr is in none of the three forms"),
    ("lr: {}", "lr is in none of the three forms"),
    ("lr: {low: 0, high: 1e-2}", "lr has low: 0, which is out of bounds, which are more than 0"),
    ("lr: {low: 1e-2, high: 1e-4}", "lr has its low end 0.01 above its high end 0.0001"),
    ("lr: {low: 1e-4, high: 1e-2, log: 1}", "lr has a log that is neither true nor false"),
    ("hflip: {low: 0, high: 1, log: true}", "hflip has a low end of 0 on a log scale"),
    ("optimizer: {low: 1, high: 2}", "optimizer is one of adamw, sgd, and has no range"),
    ("crop_scale: {low: 0.1, high: 1}", "and has no range"),
    ("dropout: {low: false, high: true}", "dropout is true or false, and has no range"),
    ("optimizer: {choices: []}", "optimizer has choices that are no list alone"),
    ("optimizer: {choices: sgd}", "optimizer has choices that are no list alone"),
    ("optimizer: {choices: [sgd], log: true}", "optimizer has choices that are no list alone"),
    ("optimizer: {choices: [sgd, lion]}", "optimizer has choices: lion, which is not one of"),
    ("optimizer: {choices: [sgd, sgd]}", "optimizer has a choice twice"),
    ("lr: {choices: [1, 1.0]}", "lr has a choice twice"),
]


@pytest.mark.parametrize(("text", "words"), REFUSED)
def test_what_is_refused_names_file_and_entry(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        space_in(tmp_path, text)
    message = str(error.value)
    assert message.startswith(f"--space {tmp_path / 'space.yaml'}") and words in message
    assert is_one_sentence(message)


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["sgd", "cosine", "balanced", "low", "1e-3"])
)
ENTRY = st.recursive(
    VALUES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["low", "high", "log", "choices", "x"]), inner)
    ),
    max_leaves=6,
)


@quick
@given(given=st.dictionaries(st.sampled_from([*hyperparameters(), "other"]), ENTRY, max_size=4))
def test_any_entries_make_a_space_or_a_sentence(given: dict[str, Any]) -> None:
    message, entries = "", dict[str, Any]()
    try:
        entries = dict(check_entries(given, "--space f.yaml"))
    except UserError as error:
        message = str(error)
    assert "\n" not in message and message.startswith("--space f.yaml: " if message else "")
    assert json.loads(json.dumps(entries)) == entries
    assert check_entries(entries, "--space f.yaml") == entries  # what was checked stays as it is
    space = search_space(OPTIONS, entries)
    assert space_size(space) >= 1
    trunks, left = absorbed(OPTIONS, entries)
    assert search_space(trunks, left).keys() <= space.keys()
    for name, dimension in search_space(trunks, left).items():
        assert dimension.extremes == space[name].extremes or dimension.size == 1


def test_a_range_or_a_value_that_an_option_can_say_moves_there() -> None:
    entries = {
        "lr": {"low": 1e-3, "high": 1e-2, "log": True},
        "weight_decay": {"low": 1e-3, "high": 1e-2, "log": False},
        "label_smoothing": 0.1,
        "batch_size": 64,
        "crop_scale": [0.5, 1.0],
        "hflip": {"low": 0.0, "high": 0.5, "log": False},
    }
    trunks, left = absorbed(OPTIONS, entries)
    assert (trunks.lr, trunks.label_smoothing) == ((1e-3, 1e-2), (0.1, 0.1))
    assert (trunks.batch_size, trunks.crop_scale) == (64, (0.5, 1.0))
    assert left == {name: entries[name] for name in ("weight_decay", "hflip")}
    assert absorbed(OPTIONS, {"batch_size": 64})[1] is None


def test_sizes_are_counted() -> None:
    fixed = {"lr": 1e-3, "weight_decay": 0.1, "label_smoothing": 0.0}
    assert space_size(search_space(OPTIONS, fixed)) == 1
    more = {**fixed, "batch_size": {"low": 8, "high": 10, "log": False}}
    more["optimizer"] = {"choices": ["sgd", "adamw"]}
    assert space_size(search_space(OPTIONS, more)) == 6
    assert space_size(search_space(OPTIONS, None)) == math.inf
