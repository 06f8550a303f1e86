"""Batches between host and device: the memory that they are made in, and their copies."""
