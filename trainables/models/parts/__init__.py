"""Find the parts that a net is divided into: where FixRes adapts it, and what lies between."""
