"""Parses and formats amounts of memory, and formats counts."""

from __future__ import annotations

from pydantic import ByteSize, TypeAdapter

PATTERN = r"^\d+(\.\d+)?\s*[KMGT]i?B$"


def in_bytes(size: str) -> int:
    """Parses `1.5 GB` or `512MiB`."""
    return TypeAdapter(ByteSize).validate_python(size)


def readable(size: float) -> str:
    """Formats a number of bytes, as in `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"


def count_of(number: int, noun: str) -> str:
    """Formats a number of things, as in `1 file` or `2,000 files`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
