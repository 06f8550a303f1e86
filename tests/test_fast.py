"""What ``make test-fast`` leaves out is still there under the name that it is left out by."""

from pathlib import Path

import pytest

from tests.conftest import MARKED

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", [name for names in MARKED.values() for name in names])
def test_a_name_that_is_left_out_is_there(name: str) -> None:
    path, _, test = name.partition("::")
    assert (ROOT / path).exists()
    assert f"def {test}" in (ROOT / path).read_text() if test else True
