"""What MLflow lacks is remembered from one process to the next, and forgotten once it is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.tracking.delivery.shortfall import Shortfall


def test_what_was_refused_is_known_to_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "store" / "tracking.json"
    first = Shortfall(path)
    assert first.is_empty and "trunk a" not in first and not path.exists()
    first.note("trunk a")
    first.settle()  # The sweep has not told everything: what else MLflow lacks is not known.
    second = Shortfall(path)
    assert "trunk a" in second and "trunk b" not in second and second.is_empty


def test_it_is_forgotten_once_everything_was_sent(tmp_path: Path) -> None:
    path = tmp_path / "tracking.json"
    Shortfall(path).note("trunk a")
    second = Shortfall(path)
    second.begin_closing()
    assert "trunk a" in Shortfall(path)
    second.settle()
    assert not path.exists() and "trunk a" not in second
    second.settle()


def test_what_is_refused_again_stays(tmp_path: Path) -> None:
    path = tmp_path / "tracking.json"
    for key in ("trunk a", "trunk b"):
        Shortfall(path).note(key)
    again = Shortfall(path)
    again.begin_closing()
    again.note("trunk b")
    again.settle()
    third = Shortfall(path)
    assert "trunk b" in third and "trunk a" not in third


def test_a_process_that_is_killed_while_mlflow_gets_the_rest_leaves_word(tmp_path: Path) -> None:
    path = tmp_path / "tracking.json"
    Shortfall(path).begin_closing()
    assert path.exists()


def test_what_is_written_anew_no_longer_counts_but_is_written(tmp_path: Path) -> None:
    shortfall = Shortfall(tmp_path / "tracking.json")
    shortfall.note("trunk a")
    shortfall.forgive()
    assert shortfall.is_empty and "trunk a" in shortfall


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"runs": 3}', "\x00"])
def test_where_the_file_is_damaged_everything_is_sent(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tracking.json"
    path.write_text(content)
    shortfall = Shortfall(path)
    assert "any run" in shortfall
    shortfall.begin_closing()
    shortfall.settle()
    assert not path.exists()
