"""Reach MLflow: its address, what can be known of it before a sweep, a database that has moved."""
