"""Prints what a command found: tables on a terminal, tab-separated lines into a pipe, or one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from twhin_core.progress import say

Cell = str | int | float | None | tuple[float, ...]


@dataclass(frozen=True)
class Column:
    """A column of names, or of numbers if it has a `spec`."""

    heading: str
    """On a terminal."""
    spec: str = ""
    """Python's format of a number on a terminal."""
    keys: tuple[str, ...] = ()
    """Its names in lines and in JSON; by default the heading. A cell with several is a tuple."""
    plain: str = ".6g"
    """The format of a float in tab-separated lines."""

    @property
    def names(self) -> tuple[str, ...]:
        return self.keys or (self.heading,)


@dataclass(frozen=True)
class Listing:
    """A table to print. `name` is its key in JSON; a terminal shows the first `most` rows."""

    name: str
    title: str
    columns: list[Column]
    rows: list[list[Cell]]
    most: int | None = None
    has_header: bool = True
    """Whether tab-separated lines start with the names of the columns."""
    as_pairs: bool = False
    """Whether a terminal shows a line per row, `name: value`, that its width does not fold."""


def show(listings: Sequence[Listing], as_json: bool = False) -> None:
    """Prints listings to stdout. The titles of tab-separated lines go to stderr, and an empty line separates tables."""
    console = Console()
    if as_json:
        print_json(listings)
    elif console.is_terminal:
        print_tables(listings, console)
    else:
        print_lines(listings)


def print_tables(listings: Sequence[Listing], console: Console) -> None:
    for listing in listings:
        if listing.as_pairs:
            _print_pairs(listing, console)
            continue
        rows, title = listing.rows[: listing.most], listing.title
        if len(rows) < len(listing.rows):
            title += f", the {len(rows)} largest of {len(listing.rows):,}"
        console.print(Text(title), soft_wrap=True)  # rich would wrap a table's own title at the width of the table
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for column in listing.columns:
            # Fold on a narrow terminal: part of a name or a number would be misread.
            table.add_column(Text(column.heading), justify="right" if column.spec else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(_for_terminal(*cell)) for cell in zip(row, listing.columns, strict=True)))
        console.print(table)


def _print_pairs(listing: Listing, console: Console) -> None:
    for name, value in listing.rows:
        console.print(Text(f"{f'{name}:':<12}{printable(str(value))}"), soft_wrap=True)


def print_lines(listings: Sequence[Listing]) -> None:
    for number, listing in enumerate(listings):
        say(listing.title)
        if number:
            sys.stdout.write("\n")
        if listing.has_header:
            sys.stdout.write("\t".join(name for column in listing.columns for name in column.names) + "\n")
        for row in listing.rows:
            cells = [_for_line(*cell) for cell in zip(row, listing.columns, strict=True)]
            sys.stdout.write("\t".join(cells) + "\n")


def print_json(listings: Sequence[Listing]) -> None:
    """Prints `{"<name>": [{"<column>": value, …}, …], …}`; None is null."""
    found: dict[str, list[dict[str, Any]]] = {}
    for listing in listings:
        names = [name for column in listing.columns for name in column.names]
        values = [[value for cell in zip(row, listing.columns, strict=True) for value in _values(*cell)]
                  for row in listing.rows]  # fmt: skip
        found[listing.name] = [dict(zip(names, row, strict=True)) for row in values]
    sys.stdout.write(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def printable(name: str) -> str:
    """A name on one line, with control and invisible characters escaped as in a Python string."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in name)


def _for_terminal(cell: Cell, column: Column) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return printable(cell)
    return "–".join(format(value, column.spec) for value in (cell if isinstance(cell, tuple) else (cell,)))


def _for_line(cell: Cell, column: Column) -> str:
    values = _values(cell, column)
    return "\t".join(
        "" if value is None else format(value, column.plain) if isinstance(value, float) else printable(str(value))
        for value in values
    )


def _values(cell: Cell, column: Column) -> tuple[str | int | float | None, ...]:
    """A value for each name of the column."""
    if cell is None:
        return (None,) * len(column.names)
    return cell if isinstance(cell, tuple) else (cell,)
