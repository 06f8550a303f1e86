"""Torch's process group for Ray Train, with a preemption guard in each worker.

Ray Train's controller unpickles the configuration, and so imports this module before it starts any
worker: what only training needs is not imported here.
"""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchConfig

from trainables.training.preemption import PreemptionGuard

worker_guard = PreemptionGuard()  # Installed in the processes of workers.


class GuardedTorchConfig(TorchConfig):
    """Torch's process group, and a preemption guard in each worker."""

    @property
    def backend_cls(self) -> type:
        """What starts and ends the process group."""
        return _GuardedTorchBackend


class _GuardedTorchBackend(TorchConfig().backend_cls):  # type: ignore[misc] # Ray does not export it
    """Installs the guards beforehand: a worker trains in a thread, which may set no handler."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        super().on_start(worker_group, backend_config)
        worker_group.execute(_install_guard)


def _install_guard() -> None:
    worker_guard.install()
