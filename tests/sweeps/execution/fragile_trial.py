"""A trial that ends its process, in a module of little: each process imports it anew."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from trainables.ray_backend.trial_node import errors_name_node, node_id
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

    def node_id(self) -> str:
        return node_id()

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


class SlowToStart(Fragile):
    """A trial that takes a moment; but for the first, its processes take far longer to start."""

    def setup(self, config: dict[str, Any], context: FragileContext | None = None) -> None:
        super().setup(config, context)
        try:
            (self.folder / "first").touch(exist_ok=False)
        except FileExistsError:
            time.sleep(3.0)

    def step(self) -> dict[str, Any]:
        time.sleep(0.2)
        return super().step()


class PickyAboutNodes(Fragile):
    """A trial that fails on the first node that it comes to, every time, where its name says so."""

    def setup(self, config: dict[str, Any], context: FragileContext | None = None) -> None:
        super().setup(config, context)
        with errors_name_node():
            self._fail_in("setup")

    def step(self) -> dict[str, Any]:
        self._fail_in("step")
        if self.name == "dies" and self._is_bad():
            if self.training_iteration:
                os._exit(1)
            return {"node": None, "done": False}  # the driver has heard of this process
        return {"node": node_id(), "done": True}

    def _fail_in(self, where: str) -> None:
        if self.name == where and self._is_bad():
            raise ValueError("broken")

    def _is_bad(self) -> bool:
        mark = self.folder / "bad"
        if not mark.exists():
            mark.write_text(node_id())
        return mark.read_text() == node_id()
