"""Bring jobs to a server that may be away or refuse, and know what it lacks."""
