"""The options of a sweep, in groups, with their ranges and how they are written."""
