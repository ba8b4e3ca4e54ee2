"""An earlier version as a baseline: its newest checkpoint ranks this run's edges, with nodes matched by id."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa

from twhin_core import storage
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.graph.manifest import read_schema
from twhin_core.run import saved_config
from twhin_core.schema import Schema
from twhin_core.vectors.ids import SCHEMA, Ids
from twhin_core.vectors.names import open_ids

if TYPE_CHECKING:
    from twhin_core.ranking.matched import MatchedRows, MatchedScorer

NAMES_AT_ONCE = 131_072
LEAST_MEGABYTES = 128
"""For matching, however small `evaluation.memory_limit` is."""


class Previous:
    """An earlier run."""

    def __init__(self, root: str) -> None:
        """Raises UserError if `root` is not a run root or has no complete checkpoint."""
        from twhin_core.checkpoints.checkpoint import last, model_description

        self.root, url = root, storage.join(root, "config.yaml")
        if not storage.exists(url):
            raise UserError(f"evaluation.previous: {root} is not a run root: it has no config.yaml")
        self.config = saved_config(root)
        checkpoint = last(root)
        if checkpoint is None:
            raise UserError(f"evaluation.previous: there is no complete checkpoint at {root}")
        self.checkpoint = checkpoint
        self.schema = read_schema(self.config, root)
        checkpoint.check_fits(model_description(self.config, self.schema))

    def scorer(self, schema: Schema) -> MatchedScorer:
        """The earlier scorer, for the relations of this run and tables from `match_tables`."""
        import torch

        from twhin_core.ranking.matched import MatchedScorer

        names = [relation.name for relation in self.schema.relations]
        numbers = [names.index(of.name) if of.name in names else -1 for of in schema.relations]
        scorer = self.checkpoint.scorer(self.config.model, self.schema.relations)
        return MatchedScorer(scorer, torch.tensor(numbers))

    def match_tables(
        self, config: Config, root: str, schema: Schema, folder: Path, memory: int
    ) -> dict[str, MatchedRows]:
        """The earlier vectors of this run's nodes, by table, as `MatchedRows`.

        Args:
            folder: is created, for files.
            memory: bytes for matching.

        Raises:
            UserError: a vocabulary of either run is broken, or DuckDB needs more memory.
        """
        from twhin_core.ranking.matched import MatchedRows

        folder.mkdir()
        tables: dict[str, MatchedRows] = {}
        for number, (table, size) in enumerate(schema.tables.items()):
            path, rows = folder / str(number), None
            if table in self.schema.tables:
                rows = self.checkpoint.rows(table)
                here = open_ids(config, root, table, size)
                there = open_ids(self.config, self.root, table, self.schema.tables[table])
                try:
                    _match(path, size, here, there, memory)
                except (duckdb.OutOfMemoryException, OSError) as error:  # Arrow's readers raise OSError
                    if "Out of Memory" not in str(error):
                        raise
                    raise UserError(
                        f"evaluation.memory_limit: too small to match {size:,} nodes of table {table} with "
                        f"{self.root}; raise it"
                    ) from error
            tables[table] = MatchedRows(rows, self.config.model.dim, path, size)
        return tables


def _match(path: Path, size: int, here: Ids, there: Ids, memory: int) -> None:
    """Writes the earlier row of each row, or -1 if there is none, as int64 [size].

    An inner join without a sort stays within DuckDB's limit: 20 million ids on each side fit into 128 MiB.
    """
    megabytes = max(memory >> 20, LEAST_MEGABYTES)
    database = path.with_suffix(".duckdb")
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{megabytes}MiB",
        "temp_directory": f"{database}.spill",
        "threads": min(os.cpu_count() or 1, max(1, megabytes // 64)),  # each thread has buffers of its own
        "preserve_insertion_order": False,
    }
    rows = np.memmap(path, np.int64, "w+", shape=(size,))
    rows[:] = -1
    with duckdb.connect(str(database), config=settings) as connection:
        connection.execute("SET enable_progress_bar = false")
        for name, ids in (("here", here), ("there", there)):
            connection.from_arrow(pa.RecordBatchReader.from_batches(SCHEMA, ids.batches(NAMES_AT_ONCE))).create(name)
        pairs = connection.sql("SELECT here.index AS here, there.index AS there FROM here JOIN there USING (id)")
        for batch in pairs.to_arrow_reader(NAMES_AT_ONCE):
            rows[batch["here"].to_numpy()] = batch["there"].to_numpy()
    rows.flush()
    database.unlink()
