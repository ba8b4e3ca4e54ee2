"""The one image that every stage runs in."""

from twhin_core import __version__

IMAGE = f"twhin/twhin:{__version__}"
"""A resources file may name another, such as the same image in a registry of one's own."""
