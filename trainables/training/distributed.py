"""Workers that train one trunk together: what they tell each other, through torch.distributed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True, kw_only=True)
class WorkerGroup:
    """This worker among all of a trunk. One that is alone tells nobody anything.

    Every method is called by all workers, in the same order. Their process group takes tensors on
    the CPU too: what is agreed on in a step does not wait for a GPU.
    """

    rank: int = 0
    world: int = 1

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether any worker has it."""
        if self.world == 1:
            return flags
        votes = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        return tuple(bool(vote) for vote in votes)

    def barrier(self) -> None:
        """Until all have come here."""
        self.any(False)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Over all workers, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Take over the first worker's values, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """(...) of one shape on the CPU -> (world, ...): every worker's."""
        if self.world == 1:
            return tensor[None]
        found = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(found, tensor)
        return torch.stack(found)

    def gather_rows(self, rows: torch.Tensor, count: int) -> torch.Tensor:
        """(n, C) rows ``rank``, ``rank + world`` ... of each worker -> all (count, C), in order."""
        most = -(-count // self.world)
        padded = torch.nn.functional.pad(rows, (0, 0, 0, most - len(rows)))
        return self.all_gather(padded).transpose(0, 1).reshape(-1, rows.shape[1])[:count]
