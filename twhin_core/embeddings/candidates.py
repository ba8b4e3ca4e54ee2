"""The nodes that may answer a query."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twhin_core import sizes
from twhin_core.config.recommend import Choice
from twhin_core.data.files import EdgeFiles
from twhin_core.data.splits import open_split
from twhin_core.embeddings.catalog import read_catalog
from twhin_core.embeddings.result import Vectors
from twhin_core.embeddings.search import Query
from twhin_core.errors import UserError
from twhin_core.schema import Side
from twhin_core.vectors.ids import IDS_PER_BATCH, Ids, Ints


def choose(source: Vectors, query: Query, choice: Choice, key: str, folder: Path) -> tuple[Ints | None, int]:
    """The rows of a query's candidates that the catalog chooses and that have enough training edges, ascending.

    Also returns how many of the catalog's ids the table does not have.

    Args:
        key: what precedes the keys of `choice` in messages, such as `recommend.fav.`.
        folder: for files.

    Returns:
        None in place of the rows if all that have an id are candidates, and there is none without.

    Raises:
        UserError: there is none, degrees of no relation are asked for, or as `read_catalog`.
    """
    table = query.candidates
    ids, asked = source.ids(table), None
    if choice.candidates is not None:
        memory = sizes.in_bytes(source.config.evaluation.memory_limit) // 4
        asked = read_catalog(choice.candidates, f"{key}candidates", folder, memory)
    rows: Ints | None = ids.index if asked is None else find_rows(ids, asked)
    unknown = 0 if asked is None or rows is None else len(asked) - len(rows)
    if choice.min_degree:
        if query.rel is None:
            raise UserError(f"{key}min_degree: counts the training edges of a relation; name the relation")
        train = open_split(source.config, source.root, source.schema, "train")
        enough = degrees(train, query.rel, query.side, source.schema.tables[table]) >= choice.min_degree
        rows = np.flatnonzero(enough[: ids.size]) if rows is None else rows[enough[rows]]
    if not (ids.size if rows is None else len(rows)):
        raise UserError(f"{key.rstrip('.') or 'candidates'}: no node of table {table} is a candidate")
    return rows, unknown


def find_rows(ids: Ids, asked: list[str]) -> Ints:
    """The rows with these ids, ascending."""
    wanted = pa.array(asked, pa.string())
    found = [
        batch["index"].to_numpy()[pc.is_in(batch["id"], wanted).to_numpy(zero_copy_only=False)]
        for batch in ids.batches(IDS_PER_BATCH)
    ]
    return np.concatenate(found) if found else np.empty(0, np.int64)


def degrees(train: EdgeFiles, rel: int, side: Side, rows: int) -> Ints:
    """[rows] the training edges of a relation that each row of the table at one of its sides has."""
    counts = np.zeros(rows, np.int64)
    for edges in train.chunks():
        counts += np.bincount(getattr(edges, side)[edges.rel == rel], minlength=rows)
    return counts
