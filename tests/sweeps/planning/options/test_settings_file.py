"""Files that people write: what is read as what, and what is refused in a sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps.planning.options.settings_file import MAX_BYTES, read_settings
from tests.factories import is_one_sentence
from trainables.errors import UserError

quick = settings(max_examples=100, deadline=None, database=None)


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def read(text: str | bytes, name: str = "file.yaml") -> Any:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_settings(path, "--space")

    return read


@pytest.mark.parametrize(
    ("text", "value"),
    [  # YAML 1.2, section 10.3.2; those marked are others in YAML 1.1
        ("1e-4", 1e-4),  # other
        ("1E3", 1000.0),  # other
        ("+.5e1", 5.0),  # other
        ("1.", 1.0),
        ("-3", -3),
        ("010", 10),  # other
        ("1:30", "1:30"),  # other
        ("1_000", "1_000"),  # other
        ("no", "no"),  # other
        ("off", "off"),  # other
        ("true", True),
        ("False", False),
        ("~", None),
        ("none", "none"),
        (".inf", math.inf),
        ("2001-01-01", "2001-01-01"),  # other
        ("'1'", "1"),
        ("[sgd, 1e-2]", ["sgd", 0.01]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        ("a:", {"a": None}),
        ("# nothing", None),
    ],
)
def test_yaml_is_that_of_1_2(read: Any, text: str, value: Any) -> None:
    found = read(text)
    assert found == value and type(found) is type(value)


def test_json_is_read_by_its_name_with_tabs_and_all(read: Any) -> None:
    assert read('{\n\t"lr": 1e-4\n}', "a.JSON") == {"lr": 1e-4}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "line 2: a is given twice"),
        ("a: &x 1\nb: *x", "line 2: an alias is not taken"),
        ("a: !!python/name:os.system", "a tag is not taken"),
        ("a: !!timestamp 1", "a tag is not taken"),
        ("1: 2", "line 1: a name is no text"),
        ("a: [", "line 1:"),
        ("a: 1\n---\nb: 2", "line 2:"),
        ("a: " + "[" * 5000, "nested too deeply"),
        (b"\xff\xfe\xfa", "not UTF-8"),
        ("a: " + "9" * 5000, "limit"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(read: Any, text: str | bytes, words: str) -> None:
    with pytest.raises(UserError) as error:
        read(text)
    assert is_one_sentence(str(error.value))
    assert "--space " in str(error.value) and words in str(error.value)


def test_a_name_that_json_has_twice_is_refused(read: Any) -> None:
    with pytest.raises(UserError, match=r"b\.json cannot be read \(lr is given twice\)"):
        read('{"lr": 1, "lr": 2}', "b.json")


def test_a_file_that_cannot_be_opened_or_ends_never_is_refused(tmp_path: Path) -> None:
    for path in (
        tmp_path / "missing",
        tmp_path,
        Path("a\0b"),
        Path("/dev/zero"),
        Path("~nobody/x"),
    ):
        with pytest.raises(UserError) as error:
            read_settings(path, "--try")
        assert is_one_sentence(str(error.value)) and str(error.value).startswith("--try ")
    (tmp_path / "large").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(UserError, match="larger than"):
        read_settings(tmp_path / "large", "--try")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@quick
@given(value=JSON)
def test_json_comes_back(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(value))
    assert read_settings(path, "--try") == value


SIGNS = st.text("{}[]:,-&*!|>#'\"%@` \n\tab1.e", max_size=40)


@quick
@given(data=st.binary(max_size=60) | SIGNS.map(str.encode))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "a.yaml"
    path.write_bytes(data)
    message = ""
    try:
        json.dumps(read_settings(path, "--try"))  # nothing but what JSON knows
    except UserError as error:
        message = str(error)
    assert "\n" not in message
