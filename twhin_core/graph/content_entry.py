"""What a graph's manifest says of the content of a table's nodes."""

from __future__ import annotations

from pydantic import BaseModel

from twhin_core.graph.raw_file_entry import RawFileEntry
from twhin_core.parquet import FileEntry
from twhin_core.schema import ContentShape


class ContentEntry(BaseModel):
    """The content of a table's nodes. `dim`: the length of the vectors, 0 for none.

    `scale`: what vectors are multiplied by when they are read; `categories`: the columns, in the order of their codes;
    `values`: how many codes there are from 1 on; 0 stands for no value. `nodes`: those with content, of which `cold`
    have no training edges. `rejected`: the rows that were left out, by reason. `names`: what the codes stand for.
    `column`: that of the vectors, if any; `raw_files`: all that the content was taken from, also by earlier versions.
    """

    dim: int
    column: str | None = None
    scale: float
    categories: list[str]
    values: int
    rejected: dict[str, int]
    nodes: int = 0
    cold: int = 0
    files: list[FileEntry] = []
    names: list[FileEntry] = []
    raw_files: list[RawFileEntry] = []

    @property
    def shape(self) -> ContentShape:
        return ContentShape(self.dim, len(self.categories), self.values)
