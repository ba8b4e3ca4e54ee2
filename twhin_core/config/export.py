"""The section `export`: the formats that embeddings are written in, and their settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from twhin_core import plugins
from twhin_core.config.numbers import Count, Few, Location, PriorWeight
from twhin_core.config.section import Section

FORMATS = ("parquet", "npy", "faiss", "pq", "vertex-vector-search", "tensorboard-projector")
"""Built-in formats; other packages can add more."""
Format = Annotated[str, AfterValidator(lambda name: plugins.check_name(plugins.EXPORT_FORMATS, name, FORMATS))]
IndexKind = Literal["auto", "flat", "hnsw", "ivf_pq", "opq_ivf_pq"]

LARGE_TABLE = 1_000_000
"""Rows above which the index is compressed by default."""

QUERY_FORMATS: tuple[Format, ...] = ("parquet", "npy")
"""Formats that `query_side` is written in; the others store what is searched, not the queries."""

FOLDERS: dict[Format, str] = {
    "npy": "npy",
    "faiss": "faiss",
    "pq": "pq",
    "vertex-vector-search": "vertex",
    "tensorboard-projector": "projector",
}
"""The folders of the built-in formats. Parquet has one folder per table; a package's format has its own name."""


class Hnsw(Section):
    """Settings of an HNSW index (Malkov & Yashunin, 2018): a neighbor graph over uncompressed vectors."""

    links: Few = Field(
        32, ge=2, le=512, description="Neighbors per node. More improve recall, at 8 bytes per row each."
    )
    ef_construction: Few = Field(80, description="Candidates kept while inserting a row.")
    ef_search: Few = Field(64, description="Candidates kept during a search; saved with the index.")


class IvfPq(Section):
    """Settings of an IVF-PQ index (Jégou et al., 2011): product-quantized vectors in lists, a few of them searched."""

    lists: Few | None = Field(
        None, description="Number of lists. Default: 4·√rows, or rows / 39 if that is smaller, and at most 65,536."
    )
    probes: Few = Field(32, description="Lists read per search; saved with the index.")
    subspaces: Few | None = Field(
        None,
        description="Number of subspaces, and so of bytes per vector. Must divide the dimension. Default: a quarter of "
        "the dimension.",
    )


class Faiss(Section):
    """One faiss index per table."""

    kind: IndexKind = Field(
        "auto",
        description="`flat`: all vectors, exact search. `hnsw`: all vectors and a graph, fast search. `ivf_pq`: "
        "compressed, for tables that do not fit in memory. `opq_ivf_pq`: the same after a rotation that loses less "
        "(Ge et al., 2013). `auto`: `flat` up to 1,000,000 rows, `opq_ivf_pq` above.",
    )
    tables: dict[str, IndexKind] = Field(
        default_factory=dict, description="Tables with an index of another kind: `{user: ivf_pq}`."
    )
    hnsw: Hnsw | None = Field(None, description="Settings of hnsw. Default: theirs.")
    ivf_pq: IvfPq | None = Field(None, description="Settings of ivf_pq and opq_ivf_pq. Default: theirs.")

    @model_validator(mode="after")
    def _check_kinds(self) -> Faiss:
        for kind, users in (("hnsw", {"hnsw"}), ("ivf_pq", {"ivf_pq", "opq_ivf_pq", "auto"})):
            if getattr(self, kind) is not None and not users & {self.kind, *self.tables.values()}:
                raise ValueError(f"{kind}: has no effect, no table has this kind; remove it")
        return self


class Pq(Section):
    """Product quantization: a vector becomes one byte or half a byte per subspace."""

    subspaces: Few | None = Field(
        None,
        description="Number of subspaces; must divide the dimension. Default: an eighth of the dimension, or a quarter "
        "if 8 does not divide it.",
    )
    bits: Literal[4, 8] = Field(8, description="Bits per code: 16 or 256 centroids per subspace.")


class Projector(Section):
    """Settings of the files for TensorBoard's projector."""

    rows: Few = Field(10_000, description="Maximum rows per table; larger tables are sampled.")


class VersionMap(Section):
    """A matrix for each table that maps this version's vectors to the space of an earlier version's, as exported."""

    to: Location = Field(
        description="Run root of the earlier version, a series for its published version, or `previous` for that of "
        "`prepare.previous`. It must have been exported as Parquet, with the same comparator."
    )
    kind: Literal["linear", "orthogonal"] = Field(
        "linear",
        description="`linear`: any matrix, also between spaces of different dimensions. `orthogonal`: a rotation, "
        "maybe with a reflection, which keeps lengths, angles and so all neighbors.",
    )


class Export(Section):
    """Embeddings for other systems."""

    tables: list[str] | None = Field(None, description="Tables to write. Default: all.")
    formats: list[Format] = Field(
        ["parquet"],
        min_length=1,
        description="Formats of each table: `parquet`, `npy`, `faiss`, `pq`, `vertex-vector-search`, "
        "`tensorboard-projector`, or the name of an entry point in the group `twhin.export_formats`.",
    )
    rows_per_file: Count = Field(
        1_000_000, description="Rows per file of the formats that write several: parquet, pq, vertex-vector-search."
    )
    normalize: bool = Field(False, description="Scale vectors to length 1, so that dot products are cosines.")
    align: Location | None = Field(
        None,
        description="Run root of an earlier version, or `previous` for that of `prepare.previous`. Multiplies all "
        "vectors by the orthogonal matrix that brings nodes of both versions nearest to where that version's export "
        "has them. Scores stay the same. Not for diagonal and complex_diagonal operators.",
    )
    map: VersionMap | None = Field(
        None,
        description="Also writes matrices that map vectors to the space of an earlier version. Default: none. Needs "
        "the format parquet.",
    )
    prior: PriorWeight | None = Field(
        None,
        description="The weight of log p in the exported priors, for all relations and sides; queries of the run take "
        "it too, unless they name one. Default: the trained weights.",
    )
    query_side: str | None = Field(
        None,
        description="A relation. Also writes its lhs table as `<lhs>.<relation>` with the relation's operator applied, "
        "so that the dot product with a vector of the rhs table is the model's score. For the comparators dot, and cos "
        "with `normalize`.",
    )
    faiss: Faiss | None = Field(None, description="Settings of the format faiss. Default: theirs.")
    pq: Pq | None = Field(None, description="Settings of the format pq. Default: theirs.")
    projector: Projector | None = Field(
        None, description="Settings of the format tensorboard-projector. Default: theirs."
    )

    @model_validator(mode="after")
    def _check_settings(self) -> Export:
        if len(set(self.formats)) < len(self.formats):
            raise ValueError(f"formats: each may be listed once; got {', '.join(self.formats)}")
        sections: dict[str, Format] = {"faiss": "faiss", "pq": "pq", "projector": "tensorboard-projector"}
        for section, name in sections.items():
            if getattr(self, section) is not None and name not in self.formats:
                raise ValueError(f"{section}: has no effect without {name} in export.formats; add it or remove this")
        if self.map is not None and "parquet" not in self.formats:
            raise ValueError("map: maps vectors as Parquet files have them; add parquet to export.formats")
        if self.query_side is not None and not set(QUERY_FORMATS) & set(self.formats):
            raise ValueError(
                f"query_side: is written only as {' or '.join(QUERY_FORMATS)}; add one of them to export.formats"
            )
        return self

    def check_folders(self, tables: list[str]) -> None:
        """Raises ValueError if a table and a format would write to the same folder."""
        for name in self.formats if "parquet" in self.formats else []:
            if name != "parquet" and (folder := FOLDERS.get(name, name)) in tables:
                raise ValueError(
                    f"export.formats: table {folder} and format {name} would share the folder embeddings/{folder}; "
                    "export only one of them"
                )

    def check_dim(self, dim: int) -> None:
        """Raises ValueError if vectors of this dimension cannot be divided into the configured subspaces."""
        ivf_pq = self.faiss.ivf_pq if self.faiss is not None else None
        for key, section in (("pq", self.pq), ("faiss.ivf_pq", ivf_pq)):
            if section is not None and section.subspaces is not None and dim % section.subspaces:
                raise ValueError(f"export.{key}.subspaces: {section.subspaces} does not divide the dimension {dim}")
