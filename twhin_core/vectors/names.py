"""The original id of each row of a table, streamed in the order of the rows, and the row of an id."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twhin_core import storage
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.graph.manifest import read_manifest
from twhin_core.parquet import open_parquet

NAMES_A_BATCH = 1 << 16

SCHEMA = pa.schema([("index", pa.int64()), ("id", pa.string())])


def read_names(config: Config, root: str, table: str, rows: int, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Batches (index: int64, id: string) of at most `batch_rows`, by ascending index below `rows`.

    From the vocabulary of prepare, else from the table's `vocab` folder, else each row's index is its id.

    Raises:
        UserError: a broken file or one without the columns, an index that is given twice or outside the table, or a
            row without id.
    """
    vocab = config.model.table(table).vocab
    if config.prepare is not None:
        manifest = read_manifest(root)
        assert manifest is not None, "read_schema has found it"
        files = next(entry.files for entry in manifest.tables if entry.name == table)
        batches = (batch for file in files for batch in _read_file(storage.join(root, file.path), batch_rows))
        return _checked(batches, rows, storage.join(root, "graph/vocab", table))
    if vocab is not None:
        return _checked(_sorted(vocab, batch_rows), rows, vocab)
    return _numbered(rows, batch_rows)


def name_rows(config: Config, root: str, table: str, size: int, rows: npt.NDArray[np.int64]) -> list[str]:
    """The ids of the given rows of a table of `size` rows, in the order given.

    Raises:
        UserError: as `read_names`, or a row that the vocabulary does not name.
    """
    wanted = np.unique(rows)
    found: dict[int, str] = {}
    for batch in read_names(config, root, table, size, NAMES_A_BATCH):
        index = batch["index"].to_numpy()
        picked = np.flatnonzero(np.isin(index, wanted, assume_unique=True))
        found.update(zip(index[picked].tolist(), batch["id"].take(pa.array(picked)).to_pylist(), strict=True))
    for row in rows.tolist():
        if row not in found:
            raise UserError(f"{table}: its vocabulary has no id for row {row}")
    return [found[row] for row in rows.tolist()]


def find_row(config: Config, root: str, table: str, size: int, name: str) -> int:
    """The row of the node with the id `name` in a table of `size` rows.

    Raises:
        UserError: as `read_names`, or there is no such id; names near ones.
    """
    for batch in read_names(config, root, table, size, NAMES_A_BATCH):
        place = pc.index(batch["id"], name).as_py()
        if place >= 0:
            return int(batch["index"][place].as_py())
    raise UserError(
        f"{table}: no node has the id {name!r}; near it: {', '.join(_near(config, root, table, size, name))}"
    )


def _near(config: Config, root: str, table: str, size: int, name: str) -> list[str]:
    batches = read_names(config, root, table, size, NAMES_A_BATCH)
    names = pa.RecordBatchReader.from_batches(SCHEMA, batches)
    with duckdb.connect() as database:
        database.register("names", names)
        near = database.execute("SELECT id FROM names ORDER BY levenshtein(id, ?), id LIMIT 3", [name])
        return [repr(found) for (found,) in near.fetchall()]


def _numbered(rows: int, batch_rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, rows, batch_rows):
        index = pa.array(np.arange(start, min(start + batch_rows, rows)))
        yield pa.RecordBatch.from_arrays([index, index.cast(pa.string())], schema=SCHEMA)


def _sorted(folder: str, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """A vocabulary of someone else's, whose rows may come in any order: sorted in memory."""
    files = storage.glob(folder)
    table = pa.Table.from_batches([batch for url in files for batch in _read_file(url, batch_rows)], SCHEMA)
    yield from table.sort_by("index").combine_chunks().to_batches(batch_rows)


def _read_file(url: str, batch_rows: int) -> Iterator[pa.RecordBatch]:
    with open_parquet(url) as file:
        names = file.schema_arrow.names
        for name in SCHEMA.names:
            if name not in names:
                raise UserError(f"{url}: has no column {name}; it has {', '.join(names)}")
        if not pa.types.is_integer(file.schema_arrow.field("index").type):
            raise UserError(f"{url}: column index is {file.schema_arrow.field('index').type}, not integers")
        row = 0
        for batch in file.iter_batches(batch_rows, columns=SCHEMA.names):
            for name in SCHEMA.names:
                if batch[name].null_count:
                    first = row + pc.index(batch[name].is_null(), True).as_py()
                    raise UserError(f"{url}: row {first}: {name} is null")
            row += batch.num_rows
            yield pa.RecordBatch.from_arrays(
                [batch["index"].cast(pa.int64()), batch["id"].cast(pa.string())], schema=SCHEMA
            )


def _checked(batches: Iterator[pa.RecordBatch], rows: int, origin: str) -> Iterator[pa.RecordBatch]:
    before = -1
    for batch in batches:
        index = batch["index"].to_numpy()
        steps = np.diff(index, prepend=before)
        if (steps <= 0).any():
            raise UserError(f"{origin}: index {index[(steps <= 0).argmax()]} is negative or given twice")
        if index[-1] >= rows:
            raise UserError(f"{origin}: index {index[-1]} is outside the table's {rows} rows")
        before = int(index[-1])
        yield batch
