"""What a graph's manifest says of a raw file."""

from __future__ import annotations

from pydantic import BaseModel


class RawFileEntry(BaseModel):
    """A raw file as prepare found it. `version`: as `paths.FoundFile.version`."""

    path: str
    size: int
    version: int
