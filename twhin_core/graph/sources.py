"""Reads raw interactions from all files into one Ibis table."""

from __future__ import annotations

import functools
import re

import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from twhin_core import storage
from twhin_core.graph.raw_files import DELIMITERS, QUOTES, RawFile, RawSource
from twhin_core.graph.rows import normalize

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("lhs", "relation", "rhs")]
    + [("weight", pa.float64()), ("time", pa.int64()), ("bad_time", pa.bool_()), ("split", pa.string())]
    + [("file", pa.string()), ("source", pa.int32())]
)


def read_sources(engine: Backend, sources: list[RawSource]) -> ir.Table:
    """All rows of all sources, lazily, as `read_source` returns them."""
    tables = [read_source(engine, raw, position) for position, raw in enumerate(sources)]
    return functools.reduce(lambda one, other: one.union(other), tables)


def read_source(engine: Backend, raw: RawSource, position: int) -> ir.Table:
    """All rows of a source, lazily. `position` is that of the source in the config.

    The columns, with the types of `SCHEMA`:
        lhs, relation, rhs: null if missing or empty.
        weight: 1 if the source has no weights; null if missing or not a number.
        time: the integer, or seconds since 1970; null if missing or invalid, or if the source has no times.
        bad_time: whether there is an invalid time.
        split: null if the source specifies none.
        file, source: the URL of the file and the position.
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
        tables.append(normalize(table, files[0], raw.source, position))
    return functools.reduce(lambda one, other: one.union(other), tables)


def duckdb_line(message: str) -> str:
    """`file: line n: problem` from DuckDB's long message about a CSV; the first line of any other message."""
    line = re.search(r"CSV Error on Line: (\d+)", message)
    file = re.search(r"^\s*file = (.*)$", message, re.MULTILINE)
    if line is None or file is None:
        return message.splitlines()[0]
    problem = re.split("Possible (?:fixes|Solution)", message)[0].rstrip().splitlines()[-1]
    return f"{file.group(1).strip()}: line {line.group(1)}: {problem.strip().rstrip('.')}"


def _open(engine: Backend, files: list[RawFile], has_header: bool) -> ir.Table:
    """The columns of files with one layout (c0, c1 … for text files), and their URL as `twhin_file`."""
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
