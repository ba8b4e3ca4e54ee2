"""The files of every source, checked before any work is done."""

from __future__ import annotations

import csv
import gzip
import io
import re
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from twhin_core import storage
from twhin_core.config_prepare import Source
from twhin_core.errors import UserError
from twhin_core.parquet import open_parquet

FORMATS = ("parquet", "csv", "tsv")
DELIMITERS = {"csv": ",", "tsv": "\t"}
QUOTES = {"csv": '"', "tsv": ""}  # a tab has no place in a TSV's field, so nothing needs quoting and `"` is a letter

BINARY_ID = "fixed_size_binary[16]"  # Arrow's name of a type that holds UUIDs

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


def check_sources(sources: list[Source]) -> list[RawSource]:
    """Finds and opens every file of every source.

    Raises:
        UserError: no file matches; a file is broken, of no known format or without a column that its source names; a
            column's type cannot serve; or the timestamps of two files are of different kinds.
    """
    checked = [RawSource(source, [_check_file(url, source) for url in storage.glob(source.path)]) for source in sources]
    kinds = {file.time: file.url for raw in checked for file in raw.files if file.time is not None}
    if len(kinds) > 1:
        places = ", ".join(f"{kind}s in {url}" for kind, url in sorted(kinds.items()))
        raise UserError(f"prepare.sources: times of different kinds cannot be compared: {places}")
    return checked


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
        schema = file.schema_arrow
    _check_names(url, source, schema.names)
    time: TimeKind | None = None
    for use, name in _used(source).items():
        of = schema.field(name).type
        of = of.value_type if pa.types.is_dictionary(of) else of
        integer = pa.types.is_integer(of)
        if use == "weight":
            good, expected = integer or pa.types.is_floating(of) or pa.types.is_decimal(of), "a number"
        elif use == "timestamp":
            good, expected = integer or pa.types.is_timestamp(of) or pa.types.is_date(of), "a time, date or integer"
            time = "integer" if integer else "timestamp"
        else:
            text = pa.types.is_string(of) or pa.types.is_large_string(of) or pa.types.is_string_view(of)
            good, expected = integer or text, "a string or an integer"
        if not good:
            raise UserError(f"{url}: column {name!r} ({use}) is {of}, not {expected}")
    return RawFile(url, "parquet", tuple((field.name, str(field.type)) for field in schema), time)


def _check_text(url: str, source: Source, form: str) -> RawFile:
    header, first = _first_rows(url, form)
    if source.columns is not None:
        header, first = source.columns, header
    if not header:
        raise UserError(f"{url}: is empty, without even a header line")
    _check_names(url, source, header)
    time: TimeKind | None = None
    if source.timestamp is not None:
        values = dict(zip(header, first, strict=False))
        integer = re.fullmatch(r"\s*[-+]?\d+\s*", values.get(source.timestamp, ""))
        time = "integer" if integer else "timestamp"
    return RawFile(url, form, tuple((name, "string") for name in header), time)


def _first_rows(url: str, form: str) -> tuple[list[str], list[str]]:
    """The first two rows of a CSV or TSV; empty where there are none."""
    with storage.open_read(url) as raw, gzip.open(raw) if url.endswith(".gz") else raw as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        quoting = csv.QUOTE_MINIMAL if QUOTES[form] else csv.QUOTE_NONE
        rows = csv.reader(text, delimiter=DELIMITERS[form], quoting=quoting)  # type: ignore[arg-type] # an int to mypy
        try:
            return next(rows, []), next(rows, [])
        except (UnicodeDecodeError, OSError, EOFError, csv.Error) as error:
            raise UserError(f"{url}: line {rows.line_num + 1}: not a {form.upper()} in UTF-8: {error}") from None
