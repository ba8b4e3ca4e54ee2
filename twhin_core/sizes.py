"""Amounts of memory, as a config states them and as people read them."""

from __future__ import annotations

import re

PATTERN = r"^\d+(\.\d+)?\s*[KMGT]i?B$"


def in_bytes(size: str) -> int:
    """Of `1.5 GB` or `512MiB`."""
    match = re.fullmatch(r"([\d.]+)\s*([KMGT])(i?)B", size)
    assert match is not None
    return int(float(match[1]) * (1024 if match[3] else 1000) ** ("KMGT".index(match[2]) + 1))


def readable(size: float) -> str:
    """`1.5 GiB` of its bytes."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"
