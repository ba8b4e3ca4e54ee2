"""Opens the ids of a run's tables."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from twhin_core import storage
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.graph.manifest import find_manifest
from twhin_core.paths import find_files
from twhin_core.vectors.ids import IDS_PER_BATCH, Ids, Ints, ListedIds, NumberedIds, StoredIds, find_positions


def open_ids(config: Config, root: str, table: str, rows: int) -> Ids:
    """The ids of a table with `rows` rows: from prepare's vocabulary, the table's `vocab` folder, or the row numbers.

    Raises:
        UserError: the vocabulary is broken, as far as opening it shows, or has an index outside the table.
    """
    vocab = config.model.table(table).vocab
    if config.prepare is not None:
        manifest = find_manifest(root)
        holder = manifest.holder(root)
        entry = next(entry for entry in manifest.tables if entry.name == table)
        listed = [file.under(holder) for file in entry.files]
        return StoredIds(listed, storage.join(holder, "graph/vocab", table), entry.sorted_runs, entry.forgotten > 0)
    if vocab is None:
        return NumberedIds(rows)
    ids = ListedIds([file.url for file in find_files(vocab)], vocab)
    last = ids.size - 1 if ids.index is None else ids.index[-1]
    if last >= rows:
        raise UserError(f"{vocab}: index {last} is outside the table's {rows} rows")
    return ids


def name_rows(ids: Ids, table: str, rows: Ints) -> list[str]:
    """The ids of the given rows of a table. Raises UserError for a row without id."""
    positions, has_id = find_positions(ids.index, rows)
    if not (has_id := has_id & (positions < ids.size)).all():
        raise UserError(f"{table}: its vocabulary has no id for row {rows[has_id.argmin()]}")
    return ids.at(positions)


def names_of(ids: Ids, rows: Ints) -> pa.StringArray:
    """The ids of many rows, which have some, in any order and repeated. Reads all ids of the table."""
    distinct, place = np.unique(rows, return_inverse=True)
    found = [pa.array([], pa.string())]
    for batch in ids.batches(IDS_PER_BATCH):
        index = batch["index"].to_numpy()
        if len(index):
            inside = distinct[slice(*np.searchsorted(distinct, [index[0], index[-1] + 1]))]
            found.append(batch["id"].take(pa.array(np.searchsorted(index, inside))))
    names = pa.concat_arrays(found)
    assert len(names) == len(distinct)
    return names.take(pa.array(place))
