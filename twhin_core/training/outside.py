"""Rows that start at vectors from outside (`initial` of a table), and those of them that training leaves as they are.

The first rank matches ids and writes, under the run root, the row of every vector. Each rank then streams the vectors
past these, and takes those of its rows. What is frozen is known from the same files when training resumes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from twhin_core import storage
from twhin_core.config import Config, Table
from twhin_core.distributed.parts import local_parts
from twhin_core.distributed.ranks import Ranks
from twhin_core.errors import UserError, damaged
from twhin_core.graph.changes import refuse_changes
from twhin_core.parquet import open_parquet, write_parts
from twhin_core.progress import log
from twhin_core.schema import Schema
from twhin_core.scratch import scratch
from twhin_core.training.frozen_rows import FrozenRows
from twhin_core.training.matched_rows import ROWS_AT_ONCE, Whole, held_rows, set_rows
from twhin_core.training.outside_record import FOLDER, RECORD, OutsideEntry, read_record
from twhin_core.vectors.ids import Ints
from twhin_core.vectors.matching import match
from twhin_core.vectors.names import open_ids
from twhin_core.vectors.outside import MATCHING_BYTES, OutsideVectors, fitted, outside_vectors, random_map

Bools = npt.NDArray[np.bool_]
Known = Callable[[Ints], Bools]
"""Which of rows an earlier version has."""

SCHEMA = pa.schema([("row", pa.int64())])


class OutsideRows:
    """The rows of a run's tables that have a vector from outside."""

    def __init__(self, config: Config, root: str, schema: Schema, ranks: Ranks, resumes: bool) -> None:
        """Matches ids and records what was matched or, if the run `resumes`, reads that. A collective.

        Needs `MATCHING_BYTES` on the first rank and, on its disk, 8 bytes for each vector beside their ids.

        Raises:
            UserError: as `OutsideVectors`, an id has several vectors, or none of them is in the table; if it resumes, a
                file has changed since.
            Damaged: it resumes, but the record is missing.
        """
        self._config, self._root, self._schema = config, root, schema
        self._tables = {of.name: of for of in config.model.embeddings.tables if of.initial is not None}
        self.entries: dict[str, OutsideEntry] = {}
        if self._tables and resumes:
            self.entries = self._recorded()
        elif self._tables:
            self.entries = ranks.of_first_in_time(self._match)

    def fill(self, state: Mapping[str, Whole], known: Mapping[str, Known] | None = None) -> None:
        """Fills this rank's rows that have a vector, but for those that are `known` and not frozen.

        Holds a block of vectors in memory, and a byte for each row of a table that this rank holds.

        Raises:
            UserError: as `OutsideVectors.vectors`.
        """
        if not self._tables:
            return
        for name, vectors in outside_vectors(self._config.model.embeddings.tables).items():
            is_known = None if known is None or self.entries[name].frozen else known[name]
            self._fill(self._tables[name], vectors, state[_weight(name)], is_known)

    def has_vector(self, table: str, held: range) -> Bools:
        """Which of the rows of a table have a vector: [len(held)]."""
        found = np.zeros(len(held), np.bool_)
        for rows in self._rows(table) if table in self.entries else []:
            found[rows[(rows >= held.start) & (rows < held.stop)] - held.start] = True
        return found

    def frozen(self, state: Mapping[str, Whole]) -> FrozenRows:
        """Those of this rank's rows."""
        frozen = FrozenRows()
        for table in (name for name, entry in self.entries.items() if entry.frozen):
            held = held_rows(state[_weight(table)])
            mask = torch.from_numpy(self.has_vector(table, held))
            for part in local_parts(state[_weight(table)]):
                frozen.add(part.values, mask[part.first_row - held.start :][: len(part.values)])
        return frozen

    def _fill(self, table: Table, vectors: OutsideVectors, weight: Whole, is_known: Known | None) -> None:
        held, rows = held_rows(weight), _Stream(self._rows(table.name))
        to = None if vectors.width == table.embedding_dim else random_map(vectors.width, table.embedding_dim)
        for some in vectors.vectors():
            of_all = rows.take(len(some))
            mine = np.flatnonzero((of_all >= held.start) & (of_all < held.stop))
            if is_known is not None:
                mine = mine[~is_known(of_all[mine])]
            row, values = of_all[mine], torch.from_numpy(fitted(some[mine], to, table.is_spherical)).float()
            for part in local_parts(weight):
                inside = np.flatnonzero((row >= part.first_row) & (row < part.first_row + len(part.values)))
                set_rows(part, torch.from_numpy(row[inside] - part.first_row), values[inside])

    def _rows(self, table: str) -> Iterator[Ints]:
        """The row of every vector, or -1."""
        for file in (of.under(self._root) for of in self.entries[table].rows):
            with open_parquet(file.url, footer=file.footer) as opened:
                for batch in opened.iter_batches(ROWS_AT_ONCE):
                    yield batch["row"].to_numpy()

    def _recorded(self) -> dict[str, OutsideEntry]:
        entries = read_record(self._root)
        missing = self._tables.keys() - entries.keys()
        if missing:
            url = storage.join(self._root, RECORD)
            raise damaged(url, f"says nothing of {min(missing)}, although this run has a checkpoint")
        prepare = self._config.prepare
        if prepare is None or prepare.changed_files == "refuse":
            before = [file for entry in entries.values() for file in entry.raw_files]
            refuse_changes([entry.path for entry in entries.values()], before, "training", prepare is not None)
        return entries

    def _match(self) -> dict[str, OutsideEntry]:
        found = outside_vectors(self._config.model.embeddings.tables)
        entries = {name: self._match_table(name, vectors) for name, vectors in found.items()}
        dumped = {name: entry.model_dump() for name, entry in entries.items()}
        storage.write_json(storage.join(self._root, RECORD), dumped)
        return entries

    def _match_table(self, table: str, vectors: OutsideVectors) -> OutsideEntry:
        settings = self._tables[table].initial
        assert settings is not None
        ids = open_ids(self._config, self._root, table, self._schema.tables[table])
        with scratch("train") as folder:
            vectors.check_unique(folder)
            path = folder / "rows"
            match(path, range(vectors.size), vectors, ids, MATCHING_BYTES, vectors.names)
            rows = np.memmap(path, np.int64, "r")
            blocks = [rows[start : start + ROWS_AT_ONCE] for start in range(0, vectors.size, ROWS_AT_ONCE)]
            matched = sum(int((block >= 0).sum()) for block in blocks)
            if not matched:
                raise UserError(
                    f"{vectors.key}.id: none of the {vectors.size:,} ids in {settings.id!r} of {settings.path} is "
                    f"one of the {ids.size:,} nodes of {table}"
                )
            batches = (pa.RecordBatch.from_arrays([pa.array(np.array(block))], schema=SCHEMA) for block in blocks)
            files = write_parts(batches, SCHEMA, self._root, f"{FOLDER}/{table}")
        entry = OutsideEntry(
            path=settings.path, frozen=settings.frozen, width=vectors.width, matched=matched,
            without_vector=ids.size - matched, without_node=vectors.size - matched, rows=files, raw_files=vectors.files,
        )  # fmt: skip
        log.info("train: table %s: %s", table, entry.said)
        return entry


class _Stream:
    """Numbers that arrive in blocks of one size and are taken in blocks of another."""

    def __init__(self, blocks: Iterator[Ints]) -> None:
        self._blocks, self._rest = blocks, np.empty(0, np.int64)

    def take(self, count: int) -> Ints:
        parts = [self._rest]
        while sum(map(len, parts)) < count:
            parts.append(next(self._blocks))
        whole = np.concatenate(parts)
        self._rest = whole[count:]
        return whole[:count]


def _weight(table: str) -> str:
    return f"tables.embeddings.{table}.weight"
