"""An earlier version as a baseline: its newest checkpoint ranks this run's edges, with nodes matched by id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa

from twhin_core import storage
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import UserError
from twhin_core.graph.manifest import read_schema
from twhin_core.progress import Progress
from twhin_core.schema import Schema
from twhin_core.vectors.ids import SCHEMA, Ids
from twhin_core.vectors.names import open_ids

if TYPE_CHECKING:
    from twhin_core.ranking.products import Arithmetic
    from twhin_core.ranking.rankers import PreviousRanker
    from twhin_core.vectors.rows import Rows

NAMES_AT_ONCE = 131_072


class Previous:
    """An earlier run."""

    def __init__(self, root: str) -> None:
        """Raises UserError if `root` is not a run root or has no complete checkpoint."""
        from twhin_core.checkpoints.checkpoint import model_description, newest

        self.root, url = root, storage.join(root, "config.yaml")
        if not storage.exists(url):
            raise UserError(f"evaluation.previous: {root} is not a run root: it has no config.yaml")
        self.config = config_file.parse(storage.read_text(url), origin=url)
        checkpoint = newest(root)
        if checkpoint is None:
            raise UserError(f"evaluation.previous: there is no complete checkpoint at {root}")
        self.checkpoint = checkpoint
        self.schema = read_schema(self.config, root)
        checkpoint.check_fits(model_description(self.config, self.schema))

    def ranker(
        self,
        schema: Schema,
        tables: dict[str, Rows],
        arithmetic: Arithmetic,
        memory: int,
        progress: Progress,
    ) -> PreviousRanker:
        """As a ranker of this run's nodes and relations, `schema`; `tables` as `match_tables` returns them."""
        from twhin_core.ranking.rankers import PreviousRanker

        earlier = {relation.name: number for number, relation in enumerate(self.schema.relations)}
        numbers = np.array([earlier.get(relation.name, -1) for relation in schema.relations], np.int64)
        scorer = self.checkpoint.scorer(self.config.model, self.schema.relations)
        return PreviousRanker(scorer, numbers, schema, tables, arithmetic, memory, progress)

    def match_tables(self, config: Config, root: str, schema: Schema, folder: Path, memory: int) -> dict[str, Rows]:
        """The earlier vectors of this run's nodes, by table, as `MatchedRows`.

        Args:
            folder: is created, for files.
            memory: bytes for matching.

        Raises:
            UserError: a vocabulary of either run is broken.
        """
        from twhin_core.ranking.rankers import MatchedRows

        folder.mkdir()
        tables: dict[str, Rows] = {}
        for number, (table, size) in enumerate(schema.tables.items()):
            path, rows = folder / str(number), None
            if table in self.schema.tables:
                rows = self.checkpoint.rows(table)
                here = open_ids(config, root, table, size)
                there = open_ids(self.config, self.root, table, self.schema.tables[table])
                _match(path, size, here, there, memory)
            tables[table] = MatchedRows(rows, self.config.model.dim, path, size)
        return tables


def _match(path: Path, size: int, here: Ids, there: Ids, memory: int) -> None:
    """Writes the earlier row of each row, or -1 if there is none, as int64 [size]."""
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
