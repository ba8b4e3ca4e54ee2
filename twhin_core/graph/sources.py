"""Raw interactions as one Ibis table, whatever files they come from."""

from __future__ import annotations

import functools
import re

import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from twhin_core import storage
from twhin_core.graph.raw_files import DELIMITERS, QUOTES, RawFile, RawSource
from twhin_core.graph.rows import normalise

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("lhs", "relation", "rhs")]
    + [("weight", pa.float64()), ("time", pa.int64()), ("bad_time", pa.bool_()), ("split", pa.string())]
    + [("file", pa.string()), ("source", pa.int32())]
)


def read_sources(engine: Backend, sources: list[RawSource]) -> ir.Table:
    """Every row of every source, lazily, as `read_source` gives them."""
    tables = [read_source(engine, raw, position) for position, raw in enumerate(sources)]
    return functools.reduce(lambda one, other: one.union(other), tables)


def read_source(engine: Backend, raw: RawSource, position: int) -> ir.Table:
    """Every row of one source, which stands at `position` in the config, lazily.

    Columns: lhs, relation, rhs: string, null where missing or empty; weight: float64, 1 where the source has none and
    null where it is missing or no number; time: int64, the integer or the second since 1970, null where it is missing,
    cannot be read or the source has none; bad_time: boolean, whether there is one that cannot be read; split: string,
    null where the source has none; file: string, the URL; source: int32, the position. `SCHEMA` says so to Spark.
    """
    remote = [file.url for file in raw.files if storage.is_remote(file.url)]
    if remote:
        engine.register_filesystem(storage.filesystem(remote[0])[0])
    layouts: dict[tuple[object, ...], list[RawFile]] = {}
    for file in raw.files:
        layouts.setdefault(file.layout, []).append(file)
    tables = []
    for files in layouts.values():
        table = _open(engine, files, has_header=raw.source.columns is None)
        tables.append(normalise(table, files[0], raw.source, position))
    return functools.reduce(lambda one, other: one.union(other), tables)


def duckdb_line(message: str) -> str:
    """`file: line n: what is wrong` from DuckDB's page about a CSV; of anything else the first line."""
    line = re.search(r"CSV Error on Line: (\d+)", message)
    file = re.search(r"^\s*file = (.*)$", message, re.MULTILINE)
    if line is None or file is None:
        return message.splitlines()[0]
    said = re.split("Possible (?:fixes|Solution)", message)[0].rstrip().splitlines()[-1]
    return f"{file.group(1).strip()}: line {line.group(1)}: {said.strip().rstrip('.')}"


def _open(engine: Backend, files: list[RawFile], has_header: bool) -> ir.Table:
    """Files of one layout with the columns they have, and `twhin_file`, the URL. Those of text are named c0, c1 …"""
    urls = [file.url for file in files]
    if files[0].format == "parquet":
        return engine.read_parquet(urls, filename="twhin_file", hive_partitioning=False)
    return engine.read_csv(
        urls,
        columns={f"c{position}": "VARCHAR" for position in range(len(files[0].columns))},
        filename="twhin_file",
        hive_partitioning=False,
        header=has_header,
        delim=DELIMITERS[files[0].format],
        quote=QUOTES[files[0].format],
        escape=QUOTES[files[0].format],
        compression="gzip" if urls[0].endswith(".gz") else "none",
    )
