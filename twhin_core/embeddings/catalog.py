"""The candidates that a catalog lists: files with a row per candidate, chosen by other columns."""

from __future__ import annotations

import contextlib
from pathlib import Path

import ibis

from twhin_core.config.numbers import in_seconds
from twhin_core.config.recommend import Catalog
from twhin_core.errors import UserError
from twhin_core.graph.duckdb_backend import open_backend
from twhin_core.graph.raw_files import check_sources
from twhin_core.graph.sources import read_source
from twhin_core.paths import find_files
from twhin_core.progress import log
from twhin_core.series.id_list import read_ids
from twhin_core.sizes import count_of
from twhin_core.vectors.matching import in_one_line


def read_catalog(catalog: Catalog, key: str, folder: Path, memory: int) -> list[str]:
    """The distinct ids of the rows that are chosen, sorted.

    Rows without an id are not chosen, nor are those without a time if ages matter.

    Args:
        key: of the catalog in the config, for messages.
        folder: for what does not fit into memory.
        memory: bytes that DuckDB may use.

    Raises:
        UserError: a file is broken, or lacks a column, or a column cannot be compared; or no row is chosen.
    """
    if catalog.takes_all:
        return sorted(set().union(*(read_ids(file.url) for file in find_files(catalog.path))))
    (source,) = check_sources([catalog.as_source(key)])
    too_small = f"evaluation.memory_limit: too small to read {catalog.path}; raise it"
    with in_one_line(folder, too_small, f"{catalog.path} cannot be read"), contextlib.ExitStack() as stack:
        backend = open_backend(":memory:", memory_limit=f"{memory >> 20}MiB", temp_directory=str(folder / "spill"))
        stack.callback(backend.disconnect)
        rows = backend.create_table("catalog", read_source(backend, source, 0).select("lhs", "time", "filtered"))
        chosen = rows.filter(~rows.filtered & rows.lhs.notnull())
        if catalog.max_age is not None:
            lacking = int(chosen.time.isnull().sum().fill_null(0).execute())
            if lacking:
                log.warning("%s: left out %s of %s without a time", key, count_of(lacking, "row"), catalog.path)
            chosen = chosen.filter(chosen.time >= rows.time.max().as_scalar() - in_seconds(catalog.max_age))
        ids: list[str] = chosen.select(id=chosen.lhs).distinct().order_by(ibis._.id).to_pyarrow()["id"].to_pylist()
    if not ids:
        raise UserError(f"{key}: chooses no row of {catalog.path}")
    return ids
