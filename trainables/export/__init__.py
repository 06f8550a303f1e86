"""Write the finished net in the formats that others open."""
