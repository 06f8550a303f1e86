"""The workers that train one trunk together, and what they exchange through torch.distributed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.nn.functional import pad


@dataclass(frozen=True, kw_only=True)
class WorkerGroup:
    """This worker among all that train a trunk; by default it is alone, and exchanges nothing.

    Every method is a collective operation: all workers call it, in the same order, with tensors of
    one shape and dtype. A group of several needs an initialised process group whose backend takes
    tensors on the CPU too (gloo), so that what workers agree on in a step does not wait for a GPU.
    """

    rank: int = 0
    world_size: int = 1

    def any_true(self, *flags: bool) -> tuple[bool, ...]:
        """Say for each flag whether it is true in any worker."""
        if self.world_size == 1:
            return flags
        votes = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        return tuple(bool(vote) for vote in votes)

    def barrier(self) -> None:
        """Wait until all workers have come here."""
        self.any_true(False)

    def all_reduce_sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all workers, in place, on whatever device; return it."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite tensors by those of the first worker, in place, on whatever device."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Collect every worker's tensor, on the CPU: (...) -> (world_size, ...), by rank."""
        if self.world_size == 1:
            return tensor[None]
        gathered = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(gathered, tensor)
        return torch.stack(gathered)

    def gather_rows(self, rows: torch.Tensor, count: int) -> torch.Tensor:
        """Put together rows that were dealt out to the workers in turn, on the CPU.

        Args:
            rows: (n, C), this worker's: ``rank``, ``rank + world_size`` ... of all.
            count: rows of all workers together; shares may differ by one row.

        Returns:
            (count, C), in order.
        """
        most = -(-count // self.world_size)
        padded = pad(rows, (0, 0, 0, most - len(rows)))
        return self.all_gather(padded).transpose(0, 1).reshape(-1, rows.shape[1])[:count]
