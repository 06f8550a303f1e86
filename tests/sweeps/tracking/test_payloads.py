from typing import Any

from sweeps.tracking.payloads import trunk_tags
from trainables.training.trunk import EpochReport


def report(epoch: int, micro_batch: int | None) -> EpochReport:
    named: dict[str, Any] = {"train_top1": 0.5, "images": 8, "lr": 0.1, "seconds": 1.0, "at": 0}
    return EpochReport(epoch=epoch, loss=1.0, micro_batch=micro_batch, **named)


def test_a_trunk_is_tagged_with_the_micro_batch_that_it_came_down_to() -> None:
    reports = [report(1, None), report(2, 16), report(3, 8)]
    assert trunk_tags("cut", reports) == {"ended": "cut", "epochs_trained": 3, "micro_batch": 8}


def test_a_trunk_that_fitted_into_memory_has_no_such_tag() -> None:
    assert "micro_batch" not in trunk_tags("finished", [report(1, None)])
    assert trunk_tags("failed", []) == {"ended": "failed", "epochs_trained": 0}
