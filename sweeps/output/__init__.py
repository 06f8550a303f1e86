"""Where a sweep lives, which driver holds it, and what may be deleted once it is finished."""
