"""Turn the choice into the finished model's folder, scored on held-out sets."""
