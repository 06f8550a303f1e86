"""Find labelled images in folders, tables and object stores, and assign splits; decode nothing."""
