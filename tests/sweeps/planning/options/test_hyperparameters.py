"""Options of training as hyperparameters: all of them, and one that is added later."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

import pytest

from sweeps.planning.options.groups import TrunkOptions
from sweeps.planning.options.hyperparameters import TRAINED_WITH, hyperparameters
from sweeps.planning.options.ranges import RANGE_OF_OPTION
from sweeps.planning.options.space import check_entries, search_space
from trainables.errors import UserError
from trainables.training.recipe import Hyper, Recipe
from trainables.transforms.augmentation import Augmentation


def test_every_option_of_trunks_but_their_epochs_is_one() -> None:
    assert set(hyperparameters()) == {f.name for f in fields(TrunkOptions)} - {"epochs"}
    assert list(hyperparameters())[:3] == ["lr", "weight_decay", "label_smoothing"]


def test_every_number_of_them_has_its_bounds() -> None:
    for name, parameter in hyperparameters().items():
        numbers = parameter.is_number or "float" in str(parameter.hint)
        assert (name in RANGE_OF_OPTION) == numbers


@dataclass(frozen=True, kw_only=True)
class LaterOptions(TrunkOptions):
    tilt: float = 0.0
    policy: Literal["plain", "rand"] = "plain"
    steps: int = 3
    only_an_option: int = 1


@dataclass(frozen=True, kw_only=True)
class LaterRecipe(Recipe):
    tilt: float = 0.0
    policy: Literal["plain", "rand"] = "plain"
    steps: int = 3
    inner: tuple[int, ...] = field(default=())


def test_an_option_that_is_added_is_one_by_itself() -> None:
    later = hyperparameters(LaterOptions, (Hyper, LaterRecipe, Augmentation))
    assert set(later) - set(hyperparameters()) == {"tilt", "policy", "steps"}
    given = {
        "steps": {"low": 1, "high": 8},
        "policy": {"choices": ["rand", "plain"]},
        "tilt": {"low": 0, "high": 0.4},
    }
    entries = check_entries(given, "--space f", later)
    assert entries["steps"] == {"low": 1, "high": 8, "log": False}
    with pytest.raises(UserError, match="policy has choices: x, which is not one of plain, rand"):
        check_entries({"policy": {"choices": ["x"]}}, "--space f", later)
    with pytest.raises(UserError, match=r"tilt has .*, which is out of bounds"):
        check_entries({"tilt": float("nan")}, "--space f", later)
    with pytest.raises(UserError, match="only_an_option is none of lr"):
        check_entries({"only_an_option": 1}, "--space f", later)


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("lr", 1, 1.0),
        ("ema_decay", 0, 0.0),
        ("batch_size", 64, 64),
        ("crop_scale", [0.5, 1], (0.5, 1.0)),
        ("dropout", False, False),
        ("optimizer", "sgd", "sgd"),
    ],
)
def test_values_are_taken_as_training_takes_them(name: str, given: Any, taken: Any) -> None:
    found = hyperparameters()[name].value_of(given)
    assert found == taken and type(found) is type(taken)
    if isinstance(taken, tuple):
        assert [type(v) for v in found] == [float, float]


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("lr", "1e-3", "is not a number"),
        ("lr", True, "is not a number"),
        ("lr", 0, "is out of bounds, which are more than 0"),
        ("lr", 10**400, "out of bounds"),
        ("lr", float("inf"), "out of bounds"),
        ("lr", [1e-3], "is not a number"),
        ("batch_size", 32.0, "is not an integer"),
        ("batch_size", 1, "at least 2"),
        ("dropout", 1, "is not true or false"),
        ("optimizer", "lion", "is not one of adamw, sgd"),
        ("optimizer", ["sgd"], "is not one of adamw, sgd"),
        ("crop_scale", [1.0, 0.5], "the lower one first"),
        ("crop_scale", [0.5], "two numbers"),
        ("crop_scale", [], "two numbers"),
        ("crop_scale", [0.5, 0.6, 0.7], "two numbers"),
        ("crop_scale", 0.5, "two numbers"),
        ("crop_scale", [0.5, 2.0], "above 0 to 1"),
        ("schedule", None, "one of cosine, constant"),
        ("hflip", {}, "is not a number"),
    ],
)
def test_others_are_refused(name: str, given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        hyperparameters()[name].value_of(given)


def test_the_space_of_the_options_alone_is_that_of_the_three() -> None:
    space = search_space(TrunkOptions(), None)
    assert list(space) == [f.name for f in fields(TRAINED_WITH[0])]
