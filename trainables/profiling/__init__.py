"""Count multiply-adds and memory of a net, and measure its latency."""
