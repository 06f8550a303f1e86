"""Run the user's own command when a sweep ends, in whatever way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainables.errors import IncompleteError


@contextmanager
def told_at_the_end(command: str | None, out: Path) -> Iterator[None]:
    """Run a shell command when the block ends; what comes of it changes nothing.

    It finds the folder of the sweep in FIXRES_OUT, and in FIXRES_RESULT how the sweep ended:
    "finished"; "incomplete", where parts of it failed; "stopped", by a person or a signal; or
    "failed".
    """
    result = "failed"
    try:
        yield
        result = "finished"
    except IncompleteError:
        result = "incomplete"
        raise
    except KeyboardInterrupt:
        result = "stopped"
        raise
    finally:
        if command:
            _run(command, os.environ | {"FIXRES_OUT": str(out), "FIXRES_RESULT": result})


def _run(command: str, environment: dict[str, str]) -> None:
    sys.stdout.flush()
    code = subprocess.run(command, shell=True, env=environment, check=False).returncode
    if code:
        print(f"warning: the command of --on-end ended with exit code {code}", file=sys.stderr)
