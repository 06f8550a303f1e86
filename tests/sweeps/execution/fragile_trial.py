"""A trial that ends its process, in a module of little: each process imports it anew."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from trainables.storage.full_disk import DiskFullError

FULL = "The disk of /out is full: free some, and the same command continues."


@dataclass(frozen=True, kw_only=True)
class FragileContext:
    """What stands for a trial's context."""

    marks: Path  # a folder: which ends there were


class Fragile(tune.Trainable):
    """A trial that ends its process once, where its name says so.

    A name is its work, in its configuration or brought to it.
    """

    def setup(self, config: dict[str, Any], context: FragileContext | None = None) -> None:
        assert context is not None and isinstance(context.marks, Path)
        self.folder, self.name = context.marks, config["work"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.name = new_config["work"]
        self._end_in("reset")
        return True

    def begin(self, name: str | None) -> None:
        self.name = name

    def step(self) -> dict[str, Any]:
        self._end_in("step")
        if self.name == "full":
            raise DiskFullError(FULL)
        if self.name == "broken":
            raise ValueError("of no use. At all.")
        return {"name": self.name, "pid": os.getpid(), "done": True}

    def _end_in(self, where: str) -> None:
        mark = self.folder / where
        if self.name == where and not mark.exists():
            mark.touch()
            os._exit(1)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass
