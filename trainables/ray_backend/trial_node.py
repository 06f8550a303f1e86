"""Say on which node of the cluster a trial runs, and in its errors on which it failed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ray

ON_NODE = "This was on node "  # before the node's id, in the note of an error


def node_id() -> str:
    """Return the id of this process's node, as Ray has it; empty: it is of no cluster."""
    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


@contextmanager
def errors_name_node() -> Iterator[None]:
    """Note on each error that leaves the block on which node it was raised."""
    try:
        yield
    except Exception as error:
        if node := node_id():
            error.add_note(f"{ON_NODE}{node}")
        raise
