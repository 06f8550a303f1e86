"""Names that MLflow would refuse are refused before a sweep begins, in a sentence."""

from __future__ import annotations

import pytest
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import _validate_metric_name, _validate_model_name

from sweeps.tracking.access.names import check_names, metric_group
from tests.factories import is_one_sentence, spec_with
from trainables.errors import UserError


def refusal_of_names(**options: object) -> str:
    with pytest.raises(UserError) as refused:
        check_names(spec_with(**options))
    given = f"{options.get('register_as')} "
    assert is_one_sentence(str(refused.value).replace(given, "").replace("...", ""))
    return str(refused.value)


@pytest.mark.parametrize(
    "name", ["team/net", "net:1", "team/fix:net", ".", "..", "..net", "/net", "a\nb", "caf\udce9"]
)
def test_a_name_that_no_model_can_have_is_refused(name: str) -> None:
    assert refusal_of_names(register_as=name).startswith("--register-as ")
    if name.isprintable():
        with pytest.raises(MlflowException):
            _validate_model_name(name)


@pytest.mark.parametrize(
    "name", ["it's mine", 'a "b"', "a.b", ".a", "50 %", "a#b?c", "naïve", "a-"]
)
def test_any_other_name_is_taken(name: str) -> None:
    check_names(spec_with(register_as=name))
    _validate_model_name(name)


def test_names_are_as_long_as_a_database_takes_them() -> None:
    assert "has 257 characters: give at most 256" in refusal_of_names(register_as="x" * 257)
    check_names(spec_with(register_as="x" * 256))


def test_an_experiment_that_cannot_be_written_is_refused() -> None:
    assert refusal_of_names(experiment="caf\udce9").startswith("--experiment 'caf\\udce9' holds")


@pytest.mark.parametrize(
    "names", [("a:b", "a_b"), ("a:b", "a/b"), (".a", "_a"), ("x (1)", "y", "x [1]")]
)
def test_sets_that_mlflow_would_take_for_one_are_refused(names: tuple[str, ...]) -> None:
    message = refusal_of_names(also_test=tuple(f"{name}=d" for name in names))
    same = [name for name in names if name != "y"]
    assert f"--also-test {' '.join(same)} would all be {metric_group(same[0])} in MLflow" in message


@pytest.mark.parametrize(
    "name", ["a:b", ".", "..", "a/b", "./a", "../a", "naïve set", "x (1)", "e\u0301"]
)
def test_every_set_has_a_name_that_metrics_may_have(name: str) -> None:
    check_names(spec_with(also_test=(f"{name}=d", "other=d")))
    _validate_metric_name(f"{metric_group(name)}/top1_untuned")
