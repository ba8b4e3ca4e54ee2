"""Finds and checks the files of all sources before any work is done."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from twhin_core.conditions import Compare, IsNull, comparisons, parse
from twhin_core.config import Relation
from twhin_core.config.sources import ContentSource, LabelSource, Source
from twhin_core.config.time_window import TimeWindow
from twhin_core.errors import UserError
from twhin_core.graph.filters import check_comparison
from twhin_core.graph.folder_columns import FolderColumn, folder_columns
from twhin_core.graph.text_files import first_rows, is_zipped
from twhin_core.parquet import open_parquet
from twhin_core.paths import FoundFile, find_files

FORMATS = ("parquet", "csv", "tsv")
UUID, BINARY_ID = "extension<arrow.uuid>", "fixed_size_binary[16]"  # Arrow's types for UUIDs
LIST = re.compile(r"(?:large_|fixed_size_)?list<\w+: (.*?)(?: not null)?>(?:\[\d+\])?$")  # and the type of its elements
FIRST_ROWS = 100  # rows of a text file that are checked
MAX_OPEN_FILES = 16  # in parallel, because an object store's latency is high

TimeKind = Literal["integer", "timestamp"]


@dataclass(frozen=True)
class RawFile:
    """A checked file.

    `columns`: name and Arrow type (`string` in a CSV or TSV), in order; `in_path`: the columns that only its folders
    give, as text.
    """

    found: FoundFile
    format: str
    columns: tuple[tuple[str, str], ...]
    in_path: tuple[FolderColumn, ...]
    time: TimeKind | None

    @property
    def url(self) -> str:
        return self.found.url

    @property
    def layout(self) -> tuple[object, ...]:
        """Files of a source with the same layout are read together."""
        return self.format, self.columns, self.in_path, self.time, self.is_zipped

    @property
    def is_zipped(self) -> bool:
        return self.format != "parquet" and is_zipped(self.url)

    def folder_column(self, name: str) -> FolderColumn | None:
        """The column of this name if only the path gives it."""
        return next((column for column in self.in_path if column.name == name), None)

    def kind(self, name: str) -> str:
        """The Arrow type of a column."""
        return "string" if self.is_text(name) else dict(self.columns)[name]

    def is_list(self, name: str) -> bool:
        """Whether a Parquet column holds lists."""
        return LIST.match(self.kind(name)) is not None

    def is_text(self, name: str) -> bool:
        """Whether a column has fields of a CSV, a TSV or a path, rather than typed values."""
        return self.format != "parquet" or self.folder_column(name) is not None


@dataclass(frozen=True)
class RawSource:
    """A source and its files. `is_whole`: whether these are all of its files."""

    source: Source
    files: list[RawFile]
    is_whole: bool = True


def check_sources(
    sources: list[Source],
    window: TimeWindow | None = None,
    choose: Callable[[list[FoundFile]], list[FoundFile]] | None = None,
) -> list[RawSource]:
    """Finds all files of all sources, and opens those that `choose` returns. Default: all.

    Raises:
        UserError: no file matches; a file is broken, in an unknown format or lacks a column; a column has an unusable
            type, or different types in different files; or times are integers in one file or in `window` and
            timestamps in another.
    """
    with ThreadPoolExecutor(MAX_OPEN_FILES) as pool:
        checked = []
        for source in sources:
            found = find_files(source.path)
            files = found if choose is None else choose(found)
            opened = list(pool.map(_check_file, files, itertools.repeat(source)))
            checked.append(RawSource(source, opened, len(files) == len(found)))
    for raw in checked:
        _check_ids(raw)
    kinds = {file.time: file.url for raw in checked for file in raw.files if file.time is not None}
    if window is not None:
        kinds.setdefault("integer" if window.of_integers else "timestamp", "prepare.time_window")
    if len(kinds) > 1:
        places = ", ".join(f"{kind}s in {url}" for kind, url in sorted(kinds.items()))
        raise UserError(f"prepare.sources: times of different types cannot be compared: {places}")
    kind = next(iter(kinds), None)  # also for files without a time in their first rows
    return [replace(raw, files=[replace(file, time=kind) for file in raw.files]) for raw in checked]


def _check_ids(raw: RawSource) -> None:
    """Refuses ids of different types: the integer 7 may or may not be the text `7` or `007` of another file."""
    for name in (raw.source.lhs, raw.source.rhs):
        kinds: dict[str, str] = {}
        for file in raw.files:
            if not file.is_text(name):
                kinds.setdefault(_id_kind(dict(file.columns)[name]), file.url)
        if len(kinds) > 1:
            places = ", ".join(f"{kind} in {url}" for kind, url in sorted(kinds.items()))
            raise UserError(f"{raw.source.path}: the ids in column {name!r} are of different types: {places}")


def id_kinds(table: str, sources: list[RawSource], relations: list[Relation]) -> set[str]:
    """The types of a table's ids in Parquet files, where columns have types, as far as the config tells the table."""
    found = set()
    for raw in sources:
        of = [relation for relation in relations if raw.source.relation in (None, relation.name)]
        for side, name in (("lhs", raw.source.lhs), ("rhs", raw.source.rhs)):
            if {getattr(relation, side) for relation in of} == {table}:
                found |= {_id_kind(dict(file.columns)[name]) for file in raw.files if not file.is_text(name)}
    return found


def _id_kind(type_name: str) -> str:
    type_name = LIST.sub(r"\1", type_name)
    if type_name in (UUID, BINARY_ID):
        return "UUID"
    return "integer" if re.fullmatch(r"u?int\d+", type_name) else "string"


def _check_file(found: FoundFile, source: Source) -> RawFile:
    url = found.url
    suffix = url.removesuffix(".gz").rsplit(".", 1)[-1]
    form = source.format or suffix
    if form not in FORMATS:
        raise UserError(f"{url}: unknown file suffix; set the source's format to one of {', '.join(FORMATS)}")
    return _check_parquet(found, source) if form == "parquet" else _check_text(found, source, form)


def _used_columns(source: Source) -> list[tuple[str, str]]:
    """The columns that a source names, each with its use, for messages and `_check_type`."""
    names = [(source.use(end), getattr(source, end)) for end in ("lhs", "rhs")]
    names += [(use, getattr(source, use)) for use in ("relation_column", "timestamp")]
    names.append(("weight", source.weight.column if source.weight else None))
    if isinstance(source, ContentSource):
        names = [names[0], *(((f"{source.key}.column"), source.vector),)]
        names += [(f"{source.key}.categories", name) for name in source.categories]
    if isinstance(source, LabelSource):
        names += [(f"{source.key}.features", name) for name in source.numbers]
    return [
        *((use, name) for use, name in names if name is not None),
        *(("where", leaf.column) for leaf in _leaves(source)),
    ]


def _leaves(source: Source) -> list[Compare | IsNull]:
    return [] if source.where is None else list(comparisons(parse(source.where)))


def _columns_in_path(url: str, source: Source, names: list[str]) -> dict[FolderColumn, str | None]:
    """Checks that every column that the source names is there once: in the file, or else in its path."""
    in_path = {column: value for column, value in folder_columns(url).items() if column.name not in names}
    known = [*names, *(column.name for column in in_path)]
    for use, name in _used_columns(source):
        if known.count(name) != 1:
            problem = "has more than one column" if name in known else "has no column"
            raise UserError(f"{url}: {problem} {name!r} ({use}); its columns are {', '.join(known)}")
    return in_path


def _check_parquet(found: FoundFile, source: Source) -> RawFile:
    url = found.url
    if source.columns is not None:
        raise UserError(f"{url}: the source's `columns` are only for CSV and TSV; remove them")
    with open_parquet(url) as file:
        schema, metadata = file.schema_arrow, file.metadata
    in_path = _columns_in_path(url, source, schema.names)
    time = _time_in_path(source, in_path)
    columns = [(field.name, _value_type(field.type)) for field in schema]
    for use, name in _used_columns(source):
        if name not in schema.names or use == "where" or use.endswith((".column", ".categories", ".features")):
            continue
        kind = dict(columns)[name]
        _check_type(url, use, name, kind)
        if use == "timestamp":
            time = "integer" if pa.types.is_integer(kind) else "timestamp"
            _check_milliseconds(url, name, metadata)
    file = RawFile(found, "parquet", tuple((name, str(kind)) for name, kind in columns), tuple(in_path), time)
    if all(name in source.lists or file.is_list(name) for name in (source.lhs, source.rhs)):
        raise UserError(f"{url}: the columns {source.lhs!r} and {source.rhs!r} both hold lists; only one may")
    return _filterable(file, source)


def _check_type(url: str, use: str, name: str, kind: pa.DataType) -> None:
    """Refuses a column whose type its use does not allow."""
    integer = pa.types.is_integer(kind)
    if use == "weight":
        good, expected = integer or pa.types.is_floating(kind) or pa.types.is_decimal(kind), "a number"
    elif use == "timestamp":
        good, expected = integer or pa.types.is_timestamp(kind) or pa.types.is_date(kind), "a time, date or integer"
    elif use == "relation_column":
        good, expected = integer or _is_text(kind), "a string or an integer"
    elif LIST.match(str(kind)):
        kind = _value_type(kind.value_type)
        good, expected = pa.types.is_integer(kind) or _is_text(kind), "a list of strings or integers"
    else:
        good, expected = integer or _is_text(kind) or str(kind) in (UUID, BINARY_ID), "a string, an integer or a UUID"
    if not good:
        raise UserError(f"{url}: column {name!r} ({use}) is {kind}, not {expected}")


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


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


def _check_text(found: FoundFile, source: Source, form: str) -> RawFile:
    url = found.url
    header, *rows = first_rows(url, form, FIRST_ROWS) or [[]]
    if source.columns is not None:
        header, rows = source.columns, [header, *rows]
    if not header:
        raise UserError(f"{url}: is empty, without even a header line")
    in_path = _columns_in_path(url, source, header)
    time = _time_in_path(source, in_path)
    if source.timestamp in header:
        position = header.index(source.timestamp)
        time = _time_kind([row[position] for row in rows if len(row) > position])
    return _filterable(RawFile(found, form, tuple((name, "string") for name in header), tuple(in_path), time), source)


def _filterable(file: RawFile, source: Source) -> RawFile:
    """Raises UserError if the source's `where` does not fit the types of the file."""
    for leaf in _leaves(source):
        try:
            check_comparison(leaf, file.kind(leaf.column))
        except ValueError as error:
            raise UserError(f"{file.url}: {error} (where)") from None
    return file


def _time_in_path(source: Source, in_path: dict[FolderColumn, str | None]) -> TimeKind | None:
    return _time_kind([value or "" for column, value in in_path.items() if column.name == source.timestamp])


def _time_kind(values: list[str]) -> TimeKind | None:
    """What the first value says about all, or None if there is none."""
    first = next(filter(None, map(str.strip, values)), None)
    if first is None:
        return None
    return "integer" if re.fullmatch(r"[-+]?\d+", first) else "timestamp"
