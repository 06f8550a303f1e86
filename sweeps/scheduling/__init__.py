"""Decide which trunk or cell runs next and which goes on; know no processes."""
