"""`where`: which rows it keeps, compared with plain Python, and its mistakes."""

from __future__ import annotations

import csv
import datetime
import math
import operator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import SmallConfig
from tests.graph.reading import edges
from tests.graph.test_sources import refused
from twhin_core import conditions
from twhin_core.config.prepare import Prepare
from twhin_core.config.sources import Source
from twhin_core.errors import UserError
from twhin_core.graph.duckdb_backend import read_alone
from twhin_core.graph.raw_files import check_sources
from twhin_core.stages.prepare import prepare

NUMBERS = [None, -2.0, 0.0, 0.5, 3.0, 4.0, 4.5, 1e300, math.inf, math.nan]
TEXTS = [None, "a", "b", "it's", 'say "x"', "é", "10", "9", " x"]
ROWS = [(number, text) for number in NUMBERS for text in TEXTS]
SIGNS = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}

# A condition as (its text, a function of a row (number, text) to True, False or None).


def compared(column: int, sign: str, literal: Any) -> Any:
    def test(row: Any) -> bool | None:
        value = row[column]
        missing = value is None or (column == 0 and not math.isfinite(value))
        return None if missing else bool(SIGNS[sign](value, literal))

    return test


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def negated(test: Any) -> Any:
    return lambda row: None if test(row) is None else not test(row)


def joined(first: Any, second: Any, word: str) -> Any:
    def test(row: Any) -> bool | None:
        found = [first(row), second(row)]
        decisive = word == "or"
        return decisive if decisive in found else None if None in found else not decisive

    return test


def one_of(texts: list[str]) -> Any:
    return lambda row: None if row[1] is None else row[1] in texts


LEAVES = st.one_of(
    st.builds(
        lambda sign, number: (f'"my number"{sign} {number!r}', compared(0, sign, number)),
        st.sampled_from(list(SIGNS)),
        st.sampled_from([-2, 0, 0.5, 4, 4.5, 1e300]),
    ),
    st.builds(
        lambda sign, text: (f"kind {sign} {quoted(text)}", compared(1, sign, text)),
        st.sampled_from(list(SIGNS)),
        st.sampled_from([text for text in TEXTS if text is not None]),
    ),
    st.builds(
        lambda texts: (f"kind IN ({', '.join(map(quoted, texts))})", one_of(texts)),
        st.lists(st.sampled_from(["a", "it's", "9", "zz"]), min_size=1, max_size=3),
    ),
    st.just(("kind is null", lambda row: row[1] is None)),
    st.just(("kind Is Not Null", lambda row: row[1] is not None)),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(lambda one: (f"not ({one[0]})", negated(one[1])), inner),
        st.builds(
            lambda one, other, word: (f"({one[0]}) {word} ({other[0]})", joined(one[1], other[1], word)),
            inner,
            inner,
            st.sampled_from(["and", "or"]),
        ),
    ),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("filters")
    names = [str(at) for at in range(len(ROWS))]
    numbers, texts = [number for number, _ in ROWS], [text for _, text in ROWS]
    columns = {"lhs": names, "rhs": names, "my number": numbers, "kind": texts}
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    with (folder / "rows.csv").open("w", newline="") as text:
        csv.writer(text).writerows([list(columns), *zip(*columns.values(), strict=True)])
    return [folder / "rows.parquet", folder / "rows.csv"]


def kept(path: Path, where: str) -> list[int]:
    (raw,) = check_sources([Source(path=str(path), relation="r", where=where)])
    rows = pa.Table.from_batches(read_alone(raw.files[0], raw.source, 0)).to_pylist()
    return sorted(int(row["lhs"]) for row in rows if not row["filtered"])


@settings(max_examples=25)
@given(tree=TREES)
def test_any_condition_keeps_what_python_keeps(files: list[Path], tree: tuple[str, Any]) -> None:
    text, test = tree
    expected = [at for at, row in enumerate(ROWS) if test(row) is True]
    assert [kept(path, text) for path in files] == [expected, expected]


TIME = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)
TYPED = pa.table(
    {
        "lhs": ["0", "1", "2"],
        "rhs": ["0", "1", "2"],
        "big": pa.array([2**53, 2**53 + 1, None]),
        "good": pa.array([True, False, None]),
        "day": pa.array([TIME.date(), TIME.date() + datetime.timedelta(1), None]),
        "at": pa.array([TIME, TIME + datetime.timedelta(0, 1), None], pa.timestamp("us", "UTC")),
        "odd name,'": ["x", "", None],
        "price": pa.array([1, 2, None], pa.decimal128(9, 2)),
    }
)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("big = 9007199254740993", [1]),
        ("good = true", [0]),
        ("good != TRUE", [1]),
        ("not good = true and not good is null", [1]),
        ("day >= '2024-05-02'", [1]),
        ("at > '2024-05-01T12:00:00'", [1]),
        ("at <= '2024-05-01T14:00:00+02:00'", [0]),
        ("\"odd name,'\" = 'x'", [0]),
        ("price > 1.5", [1]),
        ("lhs = 1 or lhs = 2", [1, 2]),
        ("big is null or big > 1e300", [2]),
        (" or ".join(["lhs = '0'"] * 300), [0]),
        ("not not lhs != '0'", [1, 2]),
        ("lhs = '0' or lhs = '1' and big is null", [0]),
    ],
)
def test_types_and_precedence(tmp_path: Path, where: str, expected: list[int]) -> None:
    pq.write_table(TYPED, tmp_path / "typed.parquet")
    assert kept(tmp_path / "typed.parquet", where) == expected


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "expected a column at the end"),
        ("rating", "expected a comparison, `in` or `is null` at the end"),
        ("rating > ", "expected a number, text in single quotes, `true` or `false` at the end"),
        ("rating > 'x", 'expected a column, a literal or a sign before "\'x"'),
        ("rating == 4", "expected a number"),
        ("rating > 4 5", "expected `and`, `or` or the end before '5'"),
        ("4 < rating", "expected a column before '4 < rating'"),
        ("rating > 4; drop table x", "expected a column, a literal or a sign before '; drop table x'"),
        ("rating between 1 and 2", "expected a comparison"),
        ("(rating > 4", "expected `)` at the end"),
        ("rating in ()", "expected a number"),
        ("rating not 4", "expected `in` before '4'"),
        ("rating is 4", "expected `null` before '4'"),
        ("(" * 50 + "a = 1" + ")" * 50, "is nested more than 20 deep"),
        ("not " * 900 + "a = 1", "is nested more than 20 deep"),
        ("a = 1 or " * 900 + "a = 1", "is longer than 4,000 characters"),
        ("a = " + "9" * 400, "is too large"),
    ],
)
def test_a_syntax_error_names_the_key(small_config: SmallConfig, where: str, message: str) -> None:
    with pytest.raises(UserError) as found:
        small_config(prepare={"sources": [{"path": "x.csv", "relation": "fav", "where": where}]})
    assert "prepare.sources.0.where: " in str(found.value)
    assert message in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("rating > 4", "has no column 'rating' (where); its columns are lhs, rhs, big"),
        ("good > true", "column 'good' is bool, which `>` cannot compare with True (where)"),
        ("good = 1", "column 'good' is bool, which `=` cannot compare with 1 (where)"),
        ("big = '7'", "column 'big' is int64, which `=` cannot compare with '7' (where)"),
        ("day > 'soon'", "column 'day' is date32[day], which `>` cannot compare with 'soon' (where)"),
        ("day > 4", "column 'day' is date32[day], which `>` cannot compare with 4 (where)"),
    ],
)
def test_a_condition_that_does_not_fit_the_file_is_refused_before_work(
    tmp_path: Path, where: str, message: str
) -> None:
    pq.write_table(TYPED, tmp_path / "typed.parquet")
    line = refused(Source(path=str(tmp_path / "typed.parquet"), relation="r", where=where))
    assert line.startswith(f"{tmp_path}/typed.parquet: {message}")


def test_filtered_rows_are_counted(small_config: SmallConfig, tmp_path: Path) -> None:
    lines = [f"u{at % 7},t{at},{at % 5 + 1}" for at in range(100)]
    (tmp_path / "rated.csv").write_text("\n".join(["lhs,rhs,rating", *lines, "u1,,1", "u1,t1,"]))
    source = {"path": str(tmp_path / "rated.csv"), "relation": "fav", "where": "rating >= 4"}
    config = small_config(
        prepare={"sources": [source], "split": {"validation": 0.0, "test": 0.0}},
        model={"relations": [{"name": "fav", "lhs": "user", "rhs": "tweet"}]},
    )
    manifest = prepare(config, str(tmp_path / "run"))
    expected = {(f"u{at % 7}", "fav", f"t{at}") for at in range(100) if at % 5 + 1 >= 4}
    assert set(edges(tmp_path / "run", manifest, "train")) == expected
    assert manifest.rejected.by_reason == {"filtered": 62}


def test_the_grammar_has_no_keyword_columns() -> None:
    with pytest.raises(ValueError, match="expected a column before 'and"):
        conditions.parse("and = 1")
    assert conditions.parse('"and" = 1') == conditions.Compare("and", "=", 1)
    assert Prepare(sources=[Source(path="x", relation="r", where="a=-1.5e-3")]).sources[0].where == "a=-1.5e-3"
