"""Adapt one trunk to one test resolution, by each arm: a cell."""
