"""The nodes that lists are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twhin_core import sizes
from twhin_core.config.recommend import Recommend
from twhin_core.data.files import EdgeFiles
from twhin_core.errors import UserError
from twhin_core.export.vector_set import TrainedRun
from twhin_core.ranking.candidates import CandidateSet
from twhin_core.ranking.queries import Ints
from twhin_core.recommend.catalog import read_catalog
from twhin_core.vectors.ids import IDS_PER_BATCH, Ids


def choose(run: TrainedRun, rel: int, settings: Recommend, train: EdgeFiles, folder: Path) -> tuple[CandidateSet, int]:
    """The nodes of a relation's rhs table with an id, that the catalog chooses and that have enough training edges.

    Also returns how many of the catalog's ids the table does not have.

    Args:
        train: the training edges, which are read if degrees matter.
        folder: for files.

    Raises:
        UserError: there is none, or as `read_catalog`.
    """
    schema, table = run.schema, run.schema.table_of(rel, "rhs")
    ids, asked = run.ids(table), None
    if settings.candidates is not None:
        memory = sizes.in_bytes(run.config.evaluation.memory_limit) // 4
        asked = read_catalog(settings.candidates, f"recommend.{schema.names[rel]}.candidates", folder, memory)
    rows: Ints | None = ids.index if asked is None else find_rows(ids, asked)
    unknown = 0 if asked is None or rows is None else len(asked) - len(rows)
    if settings.min_degree:
        enough = degrees(train, rel, schema.tables[table]) >= settings.min_degree
        rows = np.flatnonzero(enough[: ids.size]) if rows is None else rows[enough[rows]]
    size = ids.size if rows is None else len(rows)
    if not size:
        raise UserError(f"recommend.{schema.names[rel]}: no node of table {table} is a candidate")
    return CandidateSet("rhs", table, np.array([rel]), size, rows), unknown


def find_rows(ids: Ids, asked: list[str]) -> Ints:
    """The rows with these ids, ascending."""
    wanted = pa.array(asked, pa.string())
    found = [
        batch["index"].to_numpy()[pc.is_in(batch["id"], wanted).to_numpy(zero_copy_only=False)]
        for batch in ids.batches(IDS_PER_BATCH)
    ]
    return np.concatenate(found) if found else np.empty(0, np.int64)


def degrees(train: EdgeFiles, rel: int, rows: int) -> Ints:
    """[rows] the training edges of a relation that each row of its rhs table has."""
    counts = np.zeros(rows, np.int64)
    for edges in train.chunks():
        counts += np.bincount(edges.rhs[edges.rel == rel], minlength=rows)
    return counts
