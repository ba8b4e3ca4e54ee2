"""A line of versions of one model, of which one is published."""
