"""The events of a sweep, and the watchers that count or record them."""
