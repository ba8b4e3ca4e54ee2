"""What training records of vectors from outside. Does not import torch."""

from __future__ import annotations

from pydantic import BaseModel

from twhin_core import storage
from twhin_core.graph.raw_file_entry import RawFileEntry
from twhin_core.parquet import FileEntry

FOLDER, RECORD = "training/initial", "training/initial.json"


class OutsideEntry(BaseModel):
    """What became of the vectors of a table. `width`: their length; `matched`: how many have a row.

    `without_vector`: nodes; `without_node`: vectors. `rows`: the files with the row of every vector, -1 for none.
    """

    path: str
    frozen: bool
    width: int
    matched: int
    without_vector: int
    without_node: int
    rows: list[FileEntry]
    raw_files: list[RawFileEntry]

    @property
    def said(self) -> str:
        """The counts in words."""
        frozen = ", frozen" if self.frozen else ""
        return (
            f"{self.matched:,} rows start at vectors of {self.width:,} numbers from {self.path}{frozen}; "
            f"{self.without_vector:,} nodes have no vector, {self.without_node:,} vectors no node"
        )


def read_record(root: str) -> dict[str, OutsideEntry]:
    """What `training/initial.json` says, by table; empty if there is none."""
    found = storage.find_json(storage.join(root, RECORD)) or {}
    return {table: OutsideEntry.model_validate(entry) for table, entry in found.items()}
