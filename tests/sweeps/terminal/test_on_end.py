"""The user's command runs once at the end, and is told how it ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps.terminal.on_end import told_at_the_end
from trainables.errors import IncompleteError, SweepError


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (None, "finished"),
        (IncompleteError("1 cell failed"), "incomplete"),
        (KeyboardInterrupt(), "stopped"),
        (SweepError("no trunk"), "failed"),
        (ZeroDivisionError(), "failed"),
    ],
)
def test_it_is_told_what_ended_and_how(
    tmp_path: Path, error: BaseException | None, result: str
) -> None:
    told = tmp_path / "told"
    command = f'echo "$FIXRES_RESULT $FIXRES_OUT" >> {told}'

    def work() -> None:
        with told_at_the_end(command, Path("a folder")):
            assert not told.exists()
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    assert told.read_text() == f"{result} a folder\n"


def test_a_command_that_fails_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with told_at_the_end("exit 7", Path("out")):
        pass
    assert capsys.readouterr().err == ("warning: the command of --on-end ended with exit code 7\n")
