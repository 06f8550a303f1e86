"""What serving costs, and the limits on it."""
