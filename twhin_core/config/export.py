"""The section `export` of the config: in which formats the vectors are written, and how each is made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from twhin_core import plugins
from twhin_core.config.section import Section

FORMATS = ("parquet", "npy", "faiss", "pq", "vertex-vector-search", "tensorboard-projector")
"""Our own; other packages may bring more."""
Format = Annotated[str, AfterValidator(lambda name: plugins.check_name(plugins.EXPORT_FORMATS, name, FORMATS))]
IndexKind = Literal["flat", "hnsw", "ivf_pq"]

QUERY_FORMATS: tuple[Format, ...] = ("parquet", "npy")
"""What `query_side` is written in: the others are for what is searched, not for what searches."""

FOLDERS: dict[Format, str] = {
    "npy": "npy",
    "faiss": "faiss",
    "pq": "pq",
    "vertex-vector-search": "vertex",
    "tensorboard-projector": "projector",
}
"""Of each of our formats beside parquet, which has one a table; that of a package has its name."""


class Hnsw(Section):
    """Of an HNSW index (Malkov & Yashunin, 2018): a graph of near neighbors over the whole vectors."""

    links: PositiveInt = Field(32, description="Neighbors of a node: more find more, and cost 8 bytes a row each.")
    ef_construction: PositiveInt = Field(80, description="Candidates kept while a row is put in.")
    ef_search: PositiveInt = Field(64, description="Candidates kept during a search; the index is saved with it.")


class IvfPq(Section):
    """Of an IVF-PQ index (Jégou et al., 2011): lists of product-quantized vectors, of which a search reads a few."""

    lists: PositiveInt | None = Field(
        None, description="Lists; null takes 4 times the root of the table's rows, or a 39th of the rows if less."
    )
    probes: PositiveInt = Field(32, description="Lists that a search reads; the index is saved with it.")
    subspaces: PositiveInt | None = Field(
        None,
        description="Bytes a vector: the parts it is quantized in. Must divide the dim; null takes a quarter of it.",
    )


class Faiss(Section):
    """A faiss index a table."""

    kind: IndexKind = Field(
        "flat",
        description="`flat`: all vectors, searched exactly. `hnsw`: the same and a graph, searched fast. `ivf_pq`: "
        "compressed, for tables whose vectors do not fit in memory.",
    )
    tables: dict[str, IndexKind] = Field(
        default_factory=dict, description="Tables that get another kind: `{user: ivf_pq}`."
    )
    hnsw: Hnsw | None = Field(None, description="Settings of hnsw; null takes their defaults.")
    ivf_pq: IvfPq | None = Field(None, description="Settings of ivf_pq; null takes their defaults.")

    @model_validator(mode="after")
    def _kinds_used(self) -> Faiss:
        for kind in ("hnsw", "ivf_pq"):
            if getattr(self, kind) is not None and kind not in (self.kind, *self.tables.values()):
                raise ValueError(f"{kind}: has no effect, no table has this kind; leave it out")
        return self


class Pq(Section):
    """Product quantization: a vector becomes one byte, or half of one, a sub-space."""

    subspaces: PositiveInt | None = Field(
        None,
        description="Parts of a vector, each quantized by itself; must divide the dim. Null takes an eighth of the "
        "dim, or a quarter where 8 does not divide it.",
    )
    bits: Literal[4, 8] = Field(8, description="Of a part's code: 16 or 256 centroids a sub-space.")


class Projector(Section):
    """What people look at in TensorBoard's projector."""

    rows: PositiveInt = Field(10_000, description="Rows of a table, drawn at random where it has more.")


class Export(Section):
    """Embeddings for other systems."""

    tables: list[str] | None = Field(None, description="Tables to write; null writes all.")
    formats: list[Format] = Field(
        ["parquet"],
        min_length=1,
        description="What to write each table as: `parquet`, `npy`, `faiss`, `pq`, `vertex-vector-search`, "
        "`tensorboard-projector`, or the name of an entry point in the group `twhin.export_formats`.",
    )
    rows_per_file: PositiveInt = Field(
        1_000_000, description="Rows of one file, of the formats that have several: parquet, pq, vertex-vector-search."
    )
    normalize: bool = Field(False, description="Write vectors of length 1, whose dot product is the cosine.")
    query_side: str | None = Field(
        None,
        description="A relation: its lhs table is also written as `<lhs>.<relation>`, with the relation's operator "
        "applied, so that the dot product with a vector of its rhs table is the model's score. For the comparators "
        "dot, and cos with `normalize`.",
    )
    faiss: Faiss | None = Field(None, description="How the indices of the format faiss are built.")
    pq: Pq | None = Field(None, description="How the format pq quantizes.")
    projector: Projector | None = Field(None, description="What the format tensorboard-projector shows.")

    @model_validator(mode="after")
    def _settings_used(self) -> Export:
        if len(set(self.formats)) < len(self.formats):
            raise ValueError(f"formats: each may be listed once; got {', '.join(self.formats)}")
        sections: dict[str, Format] = {"faiss": "faiss", "pq": "pq", "projector": "tensorboard-projector"}
        for section, name in sections.items():
            if getattr(self, section) is not None and name not in self.formats:
                raise ValueError(f"{section}: has no effect without {name} in export.formats; add it or leave this out")
        if self.query_side is not None and not set(QUERY_FORMATS) & set(self.formats):
            raise ValueError(
                f"query_side: is written as {' or '.join(QUERY_FORMATS)}; add one of them to export.formats"
            )
        return self

    def check_folders(self, tables: list[str]) -> None:
        """Raises ValueError if a table's folder would be a format's."""
        for name in self.formats if "parquet" in self.formats else []:
            if name != "parquet" and (folder := FOLDERS.get(name, name)) in tables:
                raise ValueError(
                    f"export.formats: table {folder} and format {name} would share the folder embeddings/{folder}; "
                    "write one of them alone"
                )

    def check_dim(self, dim: int) -> None:
        """Raises ValueError, naming the key, if vectors of this length cannot be parted as asked."""
        ivf_pq = self.faiss.ivf_pq if self.faiss is not None else None
        for key, section in (("pq", self.pq), ("faiss.ivf_pq", ivf_pq)):
            if section is not None and section.subspaces is not None and dim % section.subspaces:
                raise ValueError(f"export.{key}.subspaces: {section.subspaces} sub-spaces do not divide dim {dim}")
