"""Wrap trunks and cells as Ray Tune trials; the only room of this package that imports ray."""
