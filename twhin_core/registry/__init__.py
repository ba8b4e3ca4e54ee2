"""Registers the published version of a series, with what it was made from."""
