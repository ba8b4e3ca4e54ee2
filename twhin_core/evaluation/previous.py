"""An earlier version as a baseline: its newest checkpoint ranks this run's edges, nodes being matched by their ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from twhin_core import storage
from twhin_core.checkpoints.checkpoint import Checkpoint, model_description, newest
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import UserError
from twhin_core.evaluation.products import Arithmetic
from twhin_core.evaluation.queries import Ints
from twhin_core.evaluation.rankers import ModelRanker
from twhin_core.graph.manifest import read_schema
from twhin_core.progress import Progress
from twhin_core.schema import Schema, Side
from twhin_core.vectors.ids import SCHEMA, Ids
from twhin_core.vectors.names import open_ids
from twhin_core.vectors.rows import Rows

UNKNOWN = -1e30
"""The score of a node that the earlier version does not know: below those of all that it knows."""

NAMES_AT_ONCE = 131_072


class Previous:
    """An earlier run."""

    def __init__(self, root: str) -> None:
        """Raises UserError if there is no run at `root`, or no whole checkpoint of it."""
        self.root, url = root, storage.join(root, "config.yaml")
        if not storage.exists(url):
            raise UserError(f"evaluation.previous: {root} is no run root: it has no config.yaml")
        self.config = config_file.parse(storage.read_text(url), origin=url)
        checkpoint = newest(root)
        if checkpoint is None:
            raise UserError(f"evaluation.previous: there is no whole checkpoint at {root}")
        self.checkpoint: Checkpoint = checkpoint
        self.schema = read_schema(self.config, root)
        checkpoint.check_fits(model_description(self.config, self.schema))


class PreviousRanker(ModelRanker):
    """Ranks by the scores of an earlier version.

    Vectors end in a number that is 1 if the node is unknown and else 0; that of a query turns it into the score
    `UNKNOWN`. A query of an unknown node or relation gives all known nodes the same score, 0.
    """

    def __init__(
        self,
        previous: Previous,
        schema: Schema,
        tables: Mapping[str, Rows],
        arithmetic: Arithmetic,
        memory: int,
        progress: Progress,
    ) -> None:
        """`tables`: as `matched` gives them."""
        scorer = previous.checkpoint.scorer(previous.config.model, previous.schema.relations)
        super().__init__(scorer, schema, tables, arithmetic, memory, progress)
        numbers = {relation.name: number for number, relation in enumerate(previous.schema.relations)}
        self._rel = np.array([numbers.get(relation.name, -1) for relation in schema.relations], np.int64)

    def _project_queries(self, side: Side, rel: Ints, vectors: Tensor) -> Tensor:
        known = torch.from_numpy(self._rel[rel] >= 0) & (vectors[:, -1] == 0)
        queries = super()._project_queries(side, np.maximum(self._rel[rel], 0), vectors[:, :-1])
        flag = torch.full((len(queries), 1), UNKNOWN)
        return torch.cat([queries * known[:, None], flag], 1)

    def _project_answers(self, side: Side, rel: int, vectors: Tensor) -> Tensor:
        answers = super()._project_answers(side, max(int(self._rel[rel]), 0), vectors[:, :-1])
        return torch.cat([answers, vectors[:, -1:]], 1)


class _MatchedRows:
    """The vectors of an earlier version in the order of this one's rows; the last number marks unknown nodes."""

    def __init__(self, rows: Rows | None, dim: int, path: Path, size: int) -> None:
        self._rows, self._path, self.size, self.dim = rows, path, size, dim + 1

    def read(self, start: int, stop: int) -> Tensor:
        return self.gather(np.arange(start, stop))

    def gather(self, rows: Ints) -> Tensor:
        vectors = torch.zeros(len(rows), self.dim)
        vectors[:, -1] = 1
        if self._rows is not None:
            there = np.asarray(np.memmap(self._path, np.int64, "r")[rows])
            known = np.flatnonzero(there >= 0)
            found = torch.from_numpy(known)
            vectors[found, :-1] = self._rows.gather(there[known])
            vectors[found, -1] = 0
        return vectors


def matched(
    config: Config, root: str, schema: Schema, previous: Previous, folder: Path, memory: int
) -> dict[str, Rows]:
    """The earlier version's vectors of this run's nodes, by table; files in `folder` say which row is which.

    Raises:
        UserError: a broken vocabulary, of this run or of the earlier one.
    """
    folder.mkdir()
    tables: dict[str, Rows] = {}
    for number, (table, size) in enumerate(schema.tables.items()):
        path, rows = folder / str(number), None
        if table in previous.schema.tables:
            rows = previous.checkpoint.rows(table)
            here = open_ids(config, root, table, size)
            there = open_ids(previous.config, previous.root, table, previous.schema.tables[table])
            _match(path, size, here, there, memory)
        tables[table] = _MatchedRows(rows, previous.config.model.dim, path, size)
    return tables


def _match(path: Path, size: int, here: Ids, there: Ids, memory: int) -> None:
    """Writes the earlier row of each row, or -1 where there is none, as int64 [size]."""
    database = path.with_suffix(".duckdb")
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{max(memory >> 20, 64)}MiB",
        "temp_directory": f"{database}.spill",
    }
    with duckdb.connect(str(database), config=settings) as connection, path.open("wb") as file:
        connection.execute("SET enable_progress_bar = false")
        for name, ids in (("here", here), ("there", there)):
            connection.from_arrow(pa.RecordBatchReader.from_batches(SCHEMA, ids.batches(NAMES_AT_ONCE))).create(name)
        found = connection.sql(
            """SELECT coalesce(there.index, -1) AS there FROM range(?) AS rows(row)
            LEFT JOIN here ON here.index = row LEFT JOIN there USING (id) ORDER BY row""",
            params=[size],
        )
        for batch in found.to_arrow_reader(NAMES_AT_ONCE):
            batch["there"].to_numpy().tofile(file)
