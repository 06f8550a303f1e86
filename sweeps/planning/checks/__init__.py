"""Check options against each other, before anything is made."""
