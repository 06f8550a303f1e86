"""Batches from the host to the device: the memory that they are made in, and their copies."""
