"""The file of points that are tried first."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.planning.options.tries import read_tries
from tests.factories import is_one_sentence
from trainables.errors import UserError


def test_yaml_and_json_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("- {lr: 1e-3, crop_scale: [0.5, 1]}\n- variant: b0\n  lr: 1\n")
    (tmp_path / "a.json").write_text(
        '[{"lr": 1e-3, "crop_scale": [0.5, 1]},{"variant":"b0","lr":1}]'
    )
    read = [read_tries(tmp_path / name) for name in ("a.yaml", "a.json")]
    assert read[0] == read[1]
    assert read[0] == ({"lr": 1e-3, "crop_scale": [0.5, 1.0]}, {"variant": "b0", "lr": 1.0})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no list of points"),
        ("{lr: 1}", "holds no list of points"),
        ("[]", "holds no list of points"),
        ("- 3", "point 1 is no point"),
        ("- lr: 1e-3\n- {}", "point 2 is no point"),
        ("- learning_rate: 1", "point 1: learning_rate is none of lr"),
        ("- lr: 0", "point 1: lr is 0, which is out of bounds"),
        ("- lr: {low: 1, high: 2}", "point 1: lr is {'low': 1, 'high': 2}, which is not a number"),
        ("- {variant: 3}", "variant 3 is none"),
        ("- {train_res: b0}", "train_res b0 is none"),
        ("- {train_res: true}", "train_res True is none"),
    ],
)
def test_what_is_refused_names_file_and_point(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        read_tries(tmp_path / "t.yaml")
    assert str(error.value).startswith(f"--try {tmp_path / 't.yaml'}") and words in str(error.value)
    assert is_one_sentence(str(error.value))
