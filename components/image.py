"""The one image that every stage runs in."""

from twhin_core import __version__

IMAGE = f"twhin/twhin:{__version__}"
"""A resources file can override it, for example with the same image in your own registry."""
