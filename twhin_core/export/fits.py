"""Whether the formats can hold a table, by its number of rows alone: known before training, and refused then."""

from __future__ import annotations

import math
from collections.abc import Sequence

from twhin_core.config.export import LARGE_TABLE, Export, Faiss, Format, IndexKind, IvfPq, Pq
from twhin_core.errors import UserError, suggest

CENTROIDS = 256
"""Centroids per subspace of ivf_pq and opq_ivf_pq, for codes of one byte."""
MOST_LISTS = 65_536
"""By default. To learn twice as many takes four times as long."""
MOST_FILES = 5_000
"""Of a batch update of Vertex AI Vector Search."""


def check(name: Format, export: Export, table: str, rows: int) -> None:
    """Raises UserError if a format cannot hold a table of so many rows."""
    if name == "faiss" and (kind := index_kind(export, table, rows)).endswith("ivf_pq"):
        for what, centroids in (("lists", index_lists(export, rows)), ("centroids per subspace", CENTROIDS)):
            if centroids > rows:
                raise UserError(
                    f"export.faiss: {kind} with {centroids} {what} needs at least as many rows, but {table} has "
                    f"{rows}; choose another kind for it: `tables: {{{table}: flat}}`"
                )
    bits = (export.pq or Pq()).bits
    if name == "pq" and rows < 2**bits:
        raise UserError(
            f"export.pq.bits: {bits} bits need {2**bits} rows, but {table} has {rows}; use fewer bits, or leave the "
            "table out of export.tables"
        )
    files = math.ceil(rows / export.rows_per_file)
    if name == "vertex-vector-search" and files > MOST_FILES:
        raise UserError(
            f"export.rows_per_file: {table} would need {files:,} files, but Vertex AI takes at most {MOST_FILES:,}; "
            f"set it to {math.ceil(rows / MOST_FILES)} or more"
        )


def check_query_side(export: Export, relations: Sequence[str]) -> None:
    """Raises UserError if `query_side` names none of the graph's relations."""
    if export.query_side is not None and export.query_side not in relations:
        raise UserError(
            f"export.query_side: no relation named {export.query_side!r}; {suggest(export.query_side, relations)}"
        )


def index_kind(export: Export, table: str, rows: int) -> IndexKind:
    """The kind of faiss index of a table of so many rows; never `auto`."""
    options = export.faiss or Faiss()
    kind = options.tables.get(table, options.kind)
    if kind == "auto":
        return "opq_ivf_pq" if rows > LARGE_TABLE else "flat"
    return kind


def index_lists(export: Export, rows: int) -> int:
    """The number of lists of an ivf_pq or opq_ivf_pq index."""
    configured = ((export.faiss or Faiss()).ivf_pq or IvfPq()).lists
    return configured or max(1, min(4 * math.isqrt(rows), rows // 39, MOST_LISTS))
