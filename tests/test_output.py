"""Results as tables, tab-separated lines and JSON, for any names and figures."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from twhin_core.output import Cell, Column, Listing, print_json, print_lines, print_tables, printable, show
from twhin_core.sizes import count_of

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
figures = st.none() | st.floats(-1e9, 1e9) | st.integers(-(10**12), 10**12)
bounds = st.none() | st.tuples(st.floats(-10, 10), st.floats(-10, 10))
COLUMNS = [Column("name"), Column("figure", ",.4f"), Column("95 %", ".4f", keys=("low", "high"))]
rows = st.lists(st.tuples(names, figures, bounds).map(list), max_size=30)


def captured(listings: Sequence[Listing], **options: bool) -> tuple[str, str]:
    out, err = io.StringIO(newline=""), io.StringIO(newline="")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        show(listings, **options)
    return out.getvalue(), err.getvalue()


@given(rows, rows)
def test_json_holds_every_value_as_it_is(first: list[list[Cell]], second: list[list[Cell]]) -> None:
    listings = [Listing("first", "title", COLUMNS, first, most=3), Listing("second", "title", COLUMNS, second)]
    out, err = captured(listings, as_json=True)
    assert err == ""
    found = json.loads(out)
    assert list(found) == ["first", "second"]
    for given_rows, of in ((first, found["first"]), (second, found["second"])):
        expected = [
            {"name": name, "figure": figure, "low": None if pair is None else pair[0],
             "high": None if pair is None else pair[1]}
            for name, figure, pair in given_rows
        ]  # fmt: skip
        assert of == expected


@given(rows, st.booleans())
def test_lines_have_a_field_for_every_name_and_cut_nothing(given_rows: list[list[Cell]], has_header: bool) -> None:
    out, err = captured([Listing("rows", "a title", COLUMNS, given_rows, most=3, has_header=has_header)])
    assert err == "a title\n"
    lines = list(csv.reader(io.StringIO(out, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE))
    if has_header:
        assert lines.pop(0) == ["name", "figure", "low", "high"]
    assert len(lines) == len(given_rows)
    for (name, figure, low, high), (name_given, figure_given, pair) in zip(lines, given_rows, strict=True):
        assert name == printable(str(name_given))
        assert (figure == "") == (figure_given is None)
        if isinstance(figure_given, int):
            assert int(figure) == figure_given
        elif isinstance(figure_given, float):
            assert abs(float(figure) - figure_given) <= 1e-5 * abs(figure_given)
        assert (low == high == "") == (pair is None)


@given(names.filter(lambda name: "\n" not in printable(name)), st.integers(0, 40))
def test_a_terminal_shows_whole_names_and_the_largest_rows(name: str, count: int) -> None:
    text = io.StringIO()
    of = [[f"{number}", float(number), None] for number in range(count)]
    listing = Listing("rows", "title", COLUMNS, [*of, [name, 0.5, (0.25, 0.75)]], most=20)
    print_tables([listing], Console(file=text, width=40))
    shown = text.getvalue()
    assert "…" not in shown.replace("…", "", name.count("…"))
    assert ("the 20 largest of" in shown) == (count >= 20)
    if count < 20:
        assert "0.2500–0.7500" in shown


def test_several_tables_are_separated_by_an_empty_line() -> None:
    listing = Listing("rows", "title", [Column("name")], [["a"], ["b"]])
    assert captured([listing, listing])[0] == "name\na\nb\n\nname\na\nb\n"
    for write in (print_lines, print_json):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            write([])


@pytest.mark.parametrize(("number", "words"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (12_345, "12,345 files")])
def test_one_thing_is_not_many(number: int, words: str) -> None:
    assert count_of(number, "file") == words
