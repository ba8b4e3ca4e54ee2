"""Reads raw interactions from all files into one Ibis table."""

from __future__ import annotations

import functools
import re
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from twhin_core import limits, storage
from twhin_core.config.sources import ContentSource, LabelSource, Source
from twhin_core.errors import UserError
from twhin_core.graph.content_rows import CONTENT_SCHEMA, content_rows
from twhin_core.graph.label_rows import label_rows
from twhin_core.graph.raw_files import RawFile, RawSource
from twhin_core.graph.rows import normalize
from twhin_core.graph.text_files import DELIMITERS, QUOTES, verify_zipped
from twhin_core.paths import MAGIC
from twhin_core.stores.interface import scheme_of

FORMS: dict[type[Source], Callable[..., ir.Table]] = {ContentSource: content_rows, LabelSource: label_rows}
"""What brings the rows of a kind of source into one form; `normalize` for those of interactions."""

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("lhs", "relation", "rhs")]
    + [("weight", pa.float64()), ("time", pa.int64()), ("bad_time", pa.bool_()), ("filtered", pa.bool_())]
    + [("split", pa.string()), ("file", pa.string()), ("source", pa.int32())]
)


def schema_of(sources: list[RawSource]) -> pa.Schema:
    """What `read_sources` returns for them, which are all interactions and labels, or all content."""
    return CONTENT_SCHEMA if isinstance(sources[0].source, ContentSource) else SCHEMA


def read_sources(engine: Backend, sources: list[RawSource]) -> ir.Table:
    """All rows of all sources, lazily, as `read_source` returns them."""
    tables = [read_source(engine, raw, position) for position, raw in enumerate(sources) if raw.files]
    if not tables:
        return ibis.memtable(schema_of(sources).empty_table())
    return functools.reduce(lambda one, other: one.union(other), tables)


def read_source(engine: Backend, raw: RawSource, position: int) -> ir.Table:
    """All rows of a source, lazily. `position` is that of the source in the config.

    The columns, with the types of `SCHEMA`:
        lhs, relation, rhs: null if missing or empty.
        weight: 1 if the source has no weights; null if missing or not a number; transformed, not yet normalized.
        time: the integer, or seconds since 1970; null if missing or invalid, or if the source has no times.
        bad_time: whether there is an invalid time.
        filtered: whether `where` leaves the row out.
        split: null if the source specifies none.
        file, source: the URL of the file and the position.

    Those of content have the columns of `CONTENT_SCHEMA`, those of labels the ones that `label_rows` lists.
    """
    with ThreadPoolExecutor(limits.cores()) as pool:
        list(pool.map(verify_zipped, [file.url for file in raw.files if file.is_zipped]))
    register(engine, [file.url for file in raw.files])
    layouts: dict[tuple[object, ...], list[RawFile]] = {}
    for file in raw.files:
        layouts.setdefault(file.layout, []).append(file)
    tables = []
    for files in layouts.values():
        table = _open(engine, files, has_header=raw.source.columns is None)
        form: Callable[..., ir.Table] = FORMS.get(type(raw.source), normalize)
        tables.append(form(table, files[0], raw.source, position))
    return functools.reduce(lambda one, other: one.union(other), tables)


def _open(engine: Backend, files: list[RawFile], has_header: bool) -> ir.Table:
    """The columns of files with one layout as c0, c1 …, and their URL as `file`."""
    first, urls = files[0], [as_literal(file.url) for file in files]
    names = [f"c{position}" for position in range(len(first.columns))]
    if first.format == "parquet":
        url = _unused({name for name, _ in first.columns})
        table = _view(engine, "read_parquet", urls, filename=url, hive_partitioning=False)
    else:
        url = "file"
        table = _view(
            engine,
            "read_csv",
            urls,
            columns=dict.fromkeys(names, "VARCHAR"),
            filename=url,
            hive_partitioning=False,
            auto_detect=False,
            header=has_header,
            delim=DELIMITERS[first.format],
            quote=QUOTES[first.format],
            escape=QUOTES[first.format],
            compression="gzip" if first.is_zipped else "none",
        )
    # By position: DuckDB renames columns that only differ by case.
    return table.select(**dict(zip(names, map(table.__getitem__, table.columns), strict=False)), file=table[url])


def _view(engine: Backend, function: str, urls: list[str], **options: object) -> ir.Table:
    """What a function of DuckDB reads. Ibis's own methods would download an extension for the URLs of s3://."""
    name = f"raw_{uuid.uuid4().hex}"
    arguments = [in_sql(urls), *(f"{option} = {in_sql(value)}" for option, value in options.items())]
    engine.raw_sql(f"CREATE TEMP VIEW {name} AS FROM {function}({', '.join(arguments)})")
    return engine.table(name)


def in_sql(value: object) -> str:
    """A literal of DuckDB's SQL."""
    if isinstance(value, list):
        return f"[{', '.join(map(in_sql, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{in_sql(key)}: {in_sql(of)}' for key, of in value.items())}}}"
    return str(value).lower() if isinstance(value, bool) else "'" + str(value).replace("'", "''") + "'"


def register(engine: Backend, urls: list[str]) -> None:
    """Lets DuckDB read the files on object stores."""
    for scheme, url in {scheme_of(url): url for url in urls}.items():
        if scheme and not engine.con.filesystem_is_registered(scheme):
            engine.register_filesystem(storage.filesystem(url)[0])


def _unused(names: set[str]) -> str:
    """A name for the column of URLs that no other column has."""
    name, taken = "file", {name.lower() for name in names}
    while name in taken:
        name += "_"
    return name


def as_literal(url: str) -> str:
    """Escapes a local path, which DuckDB takes for a pattern. Object stores have none."""
    if storage.is_remote(url) or not MAGIC.search(url):
        return url
    if "\\" in url:  # a separator to DuckDB, and only in a pattern
        raise UserError(f"{url}: a backslash and one of * ? [ cannot both be in a path; rename the file or folder")
    return re.sub(r"[*?[]", r"[\g<0>]", url)
