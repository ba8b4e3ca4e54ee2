"""Lists of ids become several rows."""

from __future__ import annotations

import csv
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.graph.test_sources import refused
from twhin_core.config.sources import Source
from twhin_core.errors import UserError
from twhin_core.graph.duckdb_backend import read_alone
from twhin_core.graph.raw_files import check_sources

IDS = ["Action", "Sci-Fi", " x", "é", "a,b", "", "7"]
MISSING = [None, []]


def lists(seed: int) -> list[list[str] | None]:
    rng = random.Random(seed)
    return [rng.choice(MISSING) if rng.random() < 0.2 else rng.choices(IDS, k=rng.randrange(1, 5)) for _ in range(50)]


def expected(drawn: list[list[Any] | None]) -> Counter[tuple[str, str | None]]:
    """A row for each id of each list, or one without id."""
    rows: Counter[tuple[str, str | None]] = Counter()
    for at, ids in enumerate(drawn):
        rows.update((f"m{at}", None if name in ("", None) else str(name)) for name in ids or [None])
    return rows


def read(path: Path, **options: Any) -> Counter[tuple[Any, Any]]:
    (raw,) = check_sources([Source(path=str(path), relation="r", **options)])
    rows = pa.Table.from_batches(read_alone(raw.files[0], raw.source, 0)).to_pylist()
    assert all(row["weight"] == float(row["lhs"][1:]) + 1 for row in rows if row["rhs"] is None or row["lhs"][0] == "m")
    return Counter((row["lhs"], row["rhs"]) for row in rows)


@pytest.mark.parametrize("separator", ["|", ", ", "::", "'", "."])
def test_separated_text(tmp_path: Path, separator: str) -> None:
    drawn = lists(len(separator))
    with (tmp_path / "movies.csv").open("w", newline="") as text:
        rows = [(f"m{at}", separator.join(ids or []), at + 1) for at, ids in enumerate(drawn)]
        csv.writer(text).writerows([("movie", "genres", "w"), *rows])
    split = [None if not ids else separator.join(ids).split(separator) for ids in drawn]
    found = read(tmp_path / "movies.csv", lhs="movie", rhs="genres", lists={"genres": separator}, weight="w")
    assert found == expected(split)


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.dictionary(pa.int32(), pa.string()))],
    ids=str,
)
def test_lists_of_strings(tmp_path: Path, kind: pa.DataType) -> None:
    drawn = [ids and [None if name == "7" else name for name in ids] for ids in lists(3)]
    table = {"lhs": [f"m{at}" for at in range(50)], "rhs": pa.array(drawn, pa.list_(pa.string())).cast(kind)}
    pq.write_table(pa.table({**table, "w": list(range(1, 51))}), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet", weight="w") == expected(drawn)


def test_lists_of_integers_on_the_left_and_a_fixed_size(tmp_path: Path) -> None:
    pairs = [[2**60 + at, -at] for at in range(20)]
    names = [f"m{at}" for at in range(20)]
    for form in (pa.list_(pa.int64()), pa.list_(pa.int64(), 2)):
        pq.write_table(pa.table({"lhs": pa.array(pairs, form), "rhs": names}), tmp_path / "x.parquet")
        (raw,) = check_sources([Source(path=str(tmp_path / "x.parquet"), relation="r")])
        rows = pa.Table.from_batches(read_alone(raw.files[0], raw.source, 0)).to_pylist()
        assert Counter((row["rhs"], row["lhs"]) for row in rows) == expected(pairs)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"lhs": [["a"]], "rhs": [["b"]]}, "the columns 'lhs' and 'rhs' both hold lists; only one may"),
        ({"lhs": ["a"], "rhs": [[0.5]]}, "column 'rhs' (rhs) is double, not a list of strings or integers"),
        ({"lhs": ["a"], "rhs": [[["b"]]]}, "column 'rhs' (rhs) is list<element: string>, not a list of strings or"),
        ({"lhs": ["a"], "rhs": ["b"], "relation": [["r"]]}, "column 'relation' (relation_column) is list<element: "),
    ],
)
def test_lists_of_another_kind_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    relation = {"relation_column": "relation"} if "relation" in columns else {"relation": "r"}
    line = refused(Source(path=str(tmp_path / "x.parquet"), **relation))
    assert line.startswith(f"{tmp_path}/x.parquet: {message}")


def test_integers_and_text_are_not_mixed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"lhs": ["a"], "rhs": [[1]]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"lhs": ["a"], "rhs": [["1"]]}), tmp_path / "2.parquet")
    with pytest.raises(UserError, match=r"the ids in column 'rhs' are of different types: integer in .* string in"):
        check_sources([Source(path=str(tmp_path), relation="r")])


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"genre": "|"}, "lists: 'genre' is neither the column lhs nor rhs"),
        ({"lhs": "|", "rhs": "|"}, "lists: only one of lhs and rhs may hold several ids"),
        ({"lhs": ""}, "lists.lhs"),
    ],
)
def test_a_mistake_in_the_config(lists: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Source(path="x", relation="r", lists=lists)
