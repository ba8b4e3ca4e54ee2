"""An earlier version as a baseline: its newest checkpoint ranks this run's edges, with nodes matched by id.

Relations match if they have the same name and join the same tables.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa

from twhin_core import storage
from twhin_core.config import Config
from twhin_core.errors import StorageRefused, TwhinError, UserError, one_line
from twhin_core.graph.manifest import read_schema
from twhin_core.run import saved_config
from twhin_core.schema import Schema
from twhin_core.vectors.ids import SCHEMA, Ids, Ints
from twhin_core.vectors.names import open_ids

if TYPE_CHECKING:
    from twhin_core.ranking.matched import MatchedPrior, MatchedRows, MatchedScorer

NAMES_AT_ONCE = 131_072
ERRORS = (duckdb.Error, pa.ArrowException, OSError, MemoryError)
LEAST_MEGABYTES = 128
"""For matching, however small `evaluation.memory_limit` is."""


class Previous:
    """An earlier run."""

    def __init__(self, root: str, schema: Schema) -> None:
        """
        Args:
            schema: of this run.

        Raises:
            UserError: `root` is not a run root or has no complete checkpoint.
        """
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
        places = {(of.name, of.lhs, of.rhs): number for number, of in enumerate(self.schema.relations)}
        self._numbers: Ints = np.array([places.get((of.name, of.lhs, of.rhs), -1) for of in schema.relations], np.int64)

    @property
    def known(self) -> Ints:
        """The numbers of this run's relations that the earlier version has too, ascending."""
        return np.flatnonzero(self._numbers >= 0)

    def check_relations(self, rel: Ints) -> None:
        """Raises UserError if no held-out edge is of a relation that both have. `rel`: that of each held-out edge."""
        if not np.isin(rel, self.known).any():
            raise UserError(
                f"evaluation.previous: {self.root} has none of the relations that edges are held out of here, so there "
                "is nothing to compare; remove it"
            )

    def scorer(self) -> MatchedScorer:
        """The earlier scorer, for the relations of this run and tables from `match_tables`."""
        import torch

        from twhin_core.ranking.matched import MatchedScorer

        scorer = self.checkpoint.scorer(self.config.model, self.schema.relations)
        return MatchedScorer(scorer, torch.from_numpy(self._numbers))

    def prior(self) -> MatchedPrior | None:
        """The earlier prior, likewise; None if there was none."""
        from twhin_core.ranking.matched import MatchedPrior

        scorer = self.checkpoint.scorer(self.config.model, self.schema.relations)
        prior = self.checkpoint.prior(scorer, self.schema.relations)
        return None if prior is None else MatchedPrior(prior, self._numbers)

    def match_tables(
        self, config: Config, root: str, schema: Schema, folder: Path, memory: int
    ) -> dict[str, MatchedRows]:
        """The earlier vectors of this run's nodes, by table, as `MatchedRows`.

        Args:
            folder: is created, for files.
            memory: bytes for matching.

        Raises:
            UserError: a vocabulary of either run is broken, DuckDB needs more memory, or `folder` is full.
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
                except TwhinError:
                    raise
                except ERRORS as error:
                    raise self._explained(error, f"{size:,} nodes of table {table}", (here, there), folder) from error
            tables[table] = MatchedRows(rows, self.config.model.dim, path, size)
        return tables

    def _explained(self, error: Exception, nodes: str, read: Iterable[Ids], folder: Path) -> UserError:
        """The UserError for any failure to match `nodes`: names what is short, or else the file that cannot be read.

        DuckDB reads the ids through Arrow, and its messages do not name their files.
        """
        text = str(error)
        if "Out of Memory" in text or isinstance(error, MemoryError):
            return UserError(f"evaluation.memory_limit: too small to match {nodes} with {self.root}; raise it")
        if str(folder) in text or "max_temp_directory_size" in text or os.strerror(errno.ENOSPC) in text:
            return _no_room(error)
        for ids in read:
            try:
                for _ in ids.batches(NAMES_AT_ONCE):
                    pass
            except UserError as broken:
                return broken
        return UserError(f"evaluation.previous: {nodes} cannot be matched with {self.root}: {one_line(error)}")


def _no_room(error: Exception) -> StorageRefused:
    return StorageRefused(f"{tempfile.gettempdir()}: is full or fails: {one_line(error)}; set TMPDIR to another folder")


def _reserve(path: Path, size: int) -> None:
    """Makes a file of `size` bytes. Writing to a map of a file without room on the disk would end the process."""
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise _no_room(error) from error


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
    _reserve(path, 8 * size)
    rows = np.memmap(path, np.int64, "r+", shape=(size,))
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
