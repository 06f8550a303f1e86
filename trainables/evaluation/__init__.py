"""Logits, scores with their split and sample size, and intervals."""
