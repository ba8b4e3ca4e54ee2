"""Finds and checks the files of all sources before any work is done."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from twhin_core import storage
from twhin_core.config.prepare import Source, TimeWindow
from twhin_core.errors import UserError
from twhin_core.parquet import open_parquet

FORMATS = ("parquet", "csv", "tsv")
DELIMITERS = {"csv": ",", "tsv": "\t"}
QUOTES = {"csv": '"', "tsv": ""}  # TSV fields cannot contain tabs, so there is no quoting, and `"` is a plain character

UUID, BINARY_ID = "extension<arrow.uuid>", "fixed_size_binary[16]"  # Arrow's types for UUIDs
FIRST_ROWS = 100  # rows of a text file that are checked
MAX_FIELD_SIZE = 2**24  # generous: ids that are too long are rejected later, with a reason
MAX_OPEN_FILES = 16  # in parallel, because an object store's latency is high

TimeKind = Literal["integer", "timestamp"]


@dataclass(frozen=True)
class RawFile:
    """A checked file. `columns`: name and Arrow type (`string` in a CSV or TSV), in order."""

    url: str
    format: str
    columns: tuple[tuple[str, str], ...]
    time: TimeKind | None

    @property
    def layout(self) -> tuple[object, ...]:
        """Files of a source with the same layout are read together."""
        return self.format, self.columns, self.time, self.url.endswith(".gz")


@dataclass(frozen=True)
class RawSource:
    """A source and its files."""

    source: Source
    files: list[RawFile]


def check_sources(sources: list[Source], window: TimeWindow | None = None) -> list[RawSource]:
    """Finds and opens all files of all sources.

    Raises:
        UserError: no file matches; a file is broken, in an unknown format or lacks a column; a column has an unusable
            type, or different types in different files; or times are integers in one file or in `window` and
            timestamps in another.
    """
    with ThreadPoolExecutor(MAX_OPEN_FILES) as pool:
        checked = [
            RawSource(source, list(pool.map(_check_file, files, itertools.repeat(source))))
            for source, files in [(source, storage.glob(source.path)) for source in sources]
        ]
    for raw in checked:
        _check_ids(raw)
    kinds = {file.time: file.url for raw in checked for file in raw.files if file.time is not None}
    if window is not None:
        kinds.setdefault("integer" if window.of_integers else "timestamp", "prepare.time_window")
    if len(kinds) > 1:
        places = ", ".join(f"{kind}s in {url}" for kind, url in sorted(kinds.items()))
        raise UserError(f"prepare.sources: times of different types cannot be compared: {places}")
    kind = next(iter(kinds), None)  # also for files without a time in their first rows
    return [RawSource(raw.source, [replace(file, time=kind) for file in raw.files]) for raw in checked]


def _check_ids(raw: RawSource) -> None:
    """Refuses ids of different types: the integer 7 may or may not be the text `7` or `007` of another file."""
    for name in (raw.source.lhs, raw.source.rhs):
        kinds: dict[str, str] = {}
        for file in raw.files:
            if file.format == "parquet":
                kinds.setdefault(_id_kind(dict(file.columns)[name]), file.url)
        if len(kinds) > 1:
            places = ", ".join(f"{kind} in {url}" for kind, url in sorted(kinds.items()))
            raise UserError(f"{raw.source.path}: the ids in column {name!r} are of different types: {places}")


def _id_kind(type_name: str) -> str:
    if type_name in (UUID, BINARY_ID):
        return "UUID"
    return "integer" if re.fullmatch(r"u?int\d+", type_name) else "string"


def _check_file(url: str, source: Source) -> RawFile:
    suffix = url.removesuffix(".gz").rsplit(".", 1)[-1]
    form = source.format or suffix
    if form not in FORMATS:
        raise UserError(f"{url}: unknown file suffix; set the source's format to one of {', '.join(FORMATS)}")
    return _check_parquet(url, source) if form == "parquet" else _check_text(url, source, form)


def _used_columns(source: Source) -> dict[str, str]:
    """The columns that a source names, by their use."""
    names = {use: getattr(source, use) for use in ("lhs", "rhs", "relation_column", "weight", "timestamp")}
    return {use: name for use, name in names.items() if name is not None}


def _check_names(url: str, source: Source, names: list[str]) -> None:
    for use, name in _used_columns(source).items():
        if names.count(name) != 1:
            problem = "has more than one column" if name in names else "has no column"
            raise UserError(f"{url}: {problem} {name!r} ({use}); its columns are {', '.join(names)}")


def _check_parquet(url: str, source: Source) -> RawFile:
    if source.columns is not None:
        raise UserError(f"{url}: the source's `columns` are only for CSV and TSV; remove them")
    with open_parquet(url) as file:
        schema, metadata = file.schema_arrow, file.metadata
    _check_names(url, source, schema.names)
    time: TimeKind | None = None
    types = {
        field.name: field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in schema
    }
    for use, name in _used_columns(source).items():
        kind = types[name]
        integer = pa.types.is_integer(kind)
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        if use == "weight":
            good, expected = integer or pa.types.is_floating(kind) or pa.types.is_decimal(kind), "a number"
        elif use == "timestamp":
            good, expected = integer or pa.types.is_timestamp(kind) or pa.types.is_date(kind), "a time, date or integer"
            time = "integer" if integer else "timestamp"
            _check_milliseconds(url, name, metadata)
        elif use == "relation_column":
            good, expected = integer or text, "a string or an integer"
        else:
            good, expected = integer or text or str(kind) in (UUID, BINARY_ID), "a string, an integer or a UUID"
        if not good:
            raise UserError(f"{url}: column {name!r} ({use}) is {kind}, not {expected}")
    return RawFile(url, "parquet", tuple((name, str(kind)) for name, kind in types.items()), time)


def _check_milliseconds(url: str, name: str, metadata: pq.FileMetaData) -> None:
    """Refuses times in milliseconds that overflow in microseconds, which engines use."""
    for group in range(metadata.num_row_groups):
        columns = (metadata.row_group(group).column(i) for i in range(metadata.num_columns))
        column = next(column for column in columns if column.path_in_schema == name)
        known = column.statistics
        if known is None or not known.has_min_max or "milliseconds" not in str(known.logical_type):
            continue
        if max(abs(known.min_raw), abs(known.max_raw)) > (2**63 - 1) // 1000:
            raise UserError(f"{url}: column {name!r} (timestamp) has a time out of range in its row group {group}")


def _check_text(url: str, source: Source, form: str) -> RawFile:
    header, *rows = _first_rows(url, form) or [[]]
    if source.columns is not None:
        header, rows = source.columns, [header, *rows]
    if not header:
        raise UserError(f"{url}: is empty, without even a header line")
    _check_names(url, source, header)
    time: TimeKind | None = None
    if source.timestamp is not None:
        position = header.index(source.timestamp)
        values = (row[position].strip() for row in rows if len(row) > position)
        first = next(filter(None, values), None)
        if first is not None:
            time = "integer" if re.fullmatch(r"[-+]?\d+", first) else "timestamp"
    return RawFile(url, form, tuple((name, "string") for name in header), time)


def _first_rows(url: str, form: str) -> list[list[str]]:
    """The first rows of a CSV or TSV."""
    with storage.open_read(url) as raw, gzip.open(raw) if url.endswith(".gz") else raw as file:
        csv.field_size_limit(MAX_FIELD_SIZE)
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        quoting = csv.QUOTE_MINIMAL if QUOTES[form] else csv.QUOTE_NONE
        rows = csv.reader(text, delimiter=DELIMITERS[form], quoting=quoting)  # type: ignore[arg-type] # an int to mypy
        try:
            return list(itertools.islice(rows, FIRST_ROWS))
        except (UnicodeDecodeError, OSError, EOFError, csv.Error) as error:
            raise UserError(f"{url}: line {rows.line_num + 1}: not a {form.upper()} in UTF-8: {error}") from None
