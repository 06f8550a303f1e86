"""Show what the chosen net does class by class, and how sure it is of it."""
