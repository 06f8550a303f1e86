"""Run a trunk's net over the images of a cell, and work out what its arms ask for."""
