"""Train one trunk, adapt it to a test resolution, export the net: what a single job does."""
