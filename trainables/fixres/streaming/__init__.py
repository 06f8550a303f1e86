"""Pass over sets of which not all maps are kept: features in shards, statistics still exact."""
