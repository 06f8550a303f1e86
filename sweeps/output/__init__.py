"""Keep a sweep in a folder or object store, for one driver at a time, and prune it at its end."""
