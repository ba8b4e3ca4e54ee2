"""The key `initial` of a table: vectors from outside, at which its rows start."""

from __future__ import annotations

from pydantic import Field

from twhin_core.config.numbers import Location, Name
from twhin_core.config.section import Section
from twhin_core.config.sources import ContentSource


class Initial(Section):
    """Vectors of a table's nodes that were made elsewhere, such as by a model of texts or images, in Parquet files."""

    path: Location = Field(description="File, folder (with its subfolders) or pattern, local or on an object store.")
    id: Name = Field("id", description="Column of the node's original id: string, integer or UUID.")
    column: Name = Field(
        description="Column of its vector: a list of floats, as many for every node. If they are not `embedding_dim`, "
        "a fixed random map makes them so."
    )
    frozen: bool = Field(
        False, description="Keep the rows of nodes with a vector as they are; only the others are trained."
    )

    def as_source(self, position: int) -> ContentSource:
        """The files as a source. `position`: that of the table."""
        return ContentSource(
            path=self.path, format="parquet", lhs=self.id, rhs=self.id, relation=self.column,  # they are no edges
            key=f"model.embeddings.tables.{position}.initial", uses={"lhs": "id", "rhs": "id"},
            vector=self.column, categories=[],
        )  # fmt: skip
