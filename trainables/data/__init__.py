"""Decode images once per node, and serve them as batches and rendered views."""
