"""Take from cells of the store what another cell would only work out again."""
