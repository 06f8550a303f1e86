"""See which queued trials have a process that is being started, which Ray Tune does not tell."""

from __future__ import annotations

from typing import Any

from ray.tune.experiment import Trial


def is_starting(tune_controller: Any, trial: Trial) -> bool:
    """Whether a process of a queued trial's own is being started, and has its resources.

    One that still waits for resources is not.

    Args:
        tune_controller: as Ray Tune hands it to a scheduler.
    """
    controller = tune_controller._tune_controller  # the public one does not say
    actor = controller._trial_to_actor.get(trial)
    return actor is not None and bool(controller._actor_manager.is_actor_started(actor))
