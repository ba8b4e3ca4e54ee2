"""The files of every source, checked before any work is done."""

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
QUOTES = {"csv": '"', "tsv": ""}  # a tab has no place in a TSV's field, so nothing needs quoting and `"` is a letter

UUID, BINARY_ID = "extension<arrow.uuid>", "fixed_size_binary[16]"  # Arrow's names of types that hold UUIDs
FIRST_ROWS = 100  # of a text file that are looked at
LONGEST_FIELD = 2**24  # bytes among them; what is too long for an id is not for us to say here
OPEN_AT_ONCE = 16  # files; an object store answers each after a while

TimeKind = Literal["integer", "timestamp"]


@dataclass(frozen=True)
class RawFile:
    """A file that was checked: its columns in order, each with Arrow's name of its type (`string` in a CSV or TSV)."""

    url: str
    format: str
    columns: tuple[tuple[str, str], ...]
    time: TimeKind | None

    @property
    def layout(self) -> tuple[object, ...]:
        """Files of a source with the same layout are read by one reader."""
        return self.format, self.columns, self.time, self.url.endswith(".gz")


@dataclass(frozen=True)
class RawSource:
    """A source and its files."""

    source: Source
    files: list[RawFile]


def check_sources(sources: list[Source], window: TimeWindow | None = None) -> list[RawSource]:
    """Finds and opens every file of every source.

    Raises:
        UserError: no file matches; a file is broken, of no known format or without a column that its source names; a
            column's type cannot serve, or differs between files; or the times of two files, or those of a file and of
            `window`, are of different kinds.
    """
    with ThreadPoolExecutor(OPEN_AT_ONCE) as pool:
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
        raise UserError(f"prepare.sources: times of different kinds cannot be compared: {places}")
    kind = next(iter(kinds), None)  # of files in which none was found among the first rows, too
    return [RawSource(raw.source, [replace(file, time=kind) for file in raw.files]) for raw in checked]


def _check_ids(raw: RawSource) -> None:
    """An id that is the integer 7 in one file and the text `7` or `007` in another would be a guess."""
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
        raise UserError(f"{url}: its suffix tells no format; set the source's format to {', '.join(FORMATS)}")
    return _check_parquet(url, source) if form == "parquet" else _check_text(url, source, form)


def _used(source: Source) -> dict[str, str]:
    """The columns that a source names, by their use."""
    names = {use: getattr(source, use) for use in ("lhs", "rhs", "relation_column", "weight", "timestamp")}
    return {use: name for use, name in names.items() if name is not None}


def _check_names(url: str, source: Source, names: list[str]) -> None:
    for use, name in _used(source).items():
        if names.count(name) != 1:
            problem = "has more than one column" if name in names else "has no column"
            raise UserError(f"{url}: {problem} {name!r} ({use}); its columns are {', '.join(names)}")


def _check_parquet(url: str, source: Source) -> RawFile:
    if source.columns is not None:
        raise UserError(f"{url}: the source's `columns` are for CSV and TSV; a Parquet file names its own")
    with open_parquet(url) as file:
        schema, metadata = file.schema_arrow, file.metadata
    _check_names(url, source, schema.names)
    time: TimeKind | None = None
    for use, name in _used(source).items():
        of = schema.field(name).type
        of = of.value_type if pa.types.is_dictionary(of) else of
        integer = pa.types.is_integer(of)
        text = pa.types.is_string(of) or pa.types.is_large_string(of) or pa.types.is_string_view(of)
        if use == "weight":
            good, expected = integer or pa.types.is_floating(of) or pa.types.is_decimal(of), "a number"
        elif use == "timestamp":
            good, expected = integer or pa.types.is_timestamp(of) or pa.types.is_date(of), "a time, date or integer"
            time = "integer" if integer else "timestamp"
            _check_milliseconds(url, name, metadata)
        elif use == "relation_column":
            good, expected = integer or text, "a string or an integer"
        else:
            good, expected = integer or text or str(of) in (UUID, BINARY_ID), "a string, an integer or a UUID"
        if not good:
            raise UserError(f"{url}: column {name!r} ({use}) is {of}, not {expected}")
    columns = ((field.name, field.type) for field in schema)
    unpacked = ((name, of.value_type if pa.types.is_dictionary(of) else of) for name, of in columns)
    return RawFile(url, "parquet", tuple((name, str(of)) for name, of in unpacked), time)


def _check_milliseconds(url: str, name: str, metadata: pq.FileMetaData) -> None:
    """Engines count in microseconds, and fail at a time in milliseconds that they cannot hold in these."""
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
    """The first rows of a CSV or TSV; empty where there are none."""
    with storage.open_read(url) as raw, gzip.open(raw) if url.endswith(".gz") else raw as file:
        csv.field_size_limit(LONGEST_FIELD)
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        quoting = csv.QUOTE_MINIMAL if QUOTES[form] else csv.QUOTE_NONE
        rows = csv.reader(text, delimiter=DELIMITERS[form], quoting=quoting)  # type: ignore[arg-type] # an int to mypy
        try:
            return list(itertools.islice(rows, FIRST_ROWS))
        except (UnicodeDecodeError, OSError, EOFError, csv.Error) as error:
            raise UserError(f"{url}: line {rows.line_num + 1}: not a {form.upper()} in UTF-8: {error}") from None
