"""Lists of the best candidates for many nodes."""
