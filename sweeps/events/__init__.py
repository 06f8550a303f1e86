"""What happens in a sweep, and the watchers that count or record it."""
