"""Candidates that a file with columns of its own chooses."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.command_line import assert_refused, twhin
from tests.recommend.test_lists import Trained, read_lists
from twhin_core.config.recommend import Catalog
from twhin_core.embeddings.catalog import read_catalog
from twhin_core.errors import UserError
from twhin_core.stages.recommend import recommend_once

MEMORY = 2**28
START = datetime.datetime(2026, 3, 1)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "item": st.sampled_from(["a", "b", "c", "é", "10", None]),
            "price": st.none() | st.integers(0, 9),
            "made": st.none() | st.integers(0, 20).map(lambda days: START + datetime.timedelta(days=days)),
        }
    ),
    min_size=1,
    max_size=12,
)


def kept(row: dict[str, Any], newest: datetime.datetime | None, max_age: int | None) -> bool:
    if row["item"] is None or row["price"] is None or row["price"] < 4:
        return False
    if max_age is None:
        return True
    return newest is not None and row["made"] is not None and newest - row["made"] <= datetime.timedelta(days=max_age)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, form=st.sampled_from(["parquet", "csv"]), max_age=st.none() | st.integers(1, 9))
def test_rows_are_chosen_by_their_columns(
    tmp_path: Path, rows: list[dict[str, Any]], form: str, max_age: int | None
) -> None:
    path = tmp_path / f"items.{form}"
    schema = pa.schema([("item", pa.string()), ("price", pa.int64()), ("made", pa.timestamp("s"))])
    table = pa.Table.from_pylist(rows, schema)
    if form == "parquet":
        pq.write_table(table, path)
    else:
        pyarrow.csv.write_csv(table, path)
    times = [row["made"] for row in rows if row["made"] is not None]
    expected = sorted({row["item"] for row in rows if kept(row, max(times, default=None), max_age)})
    age = {} if max_age is None else {"timestamp": "made", "max_age": f"{max_age}d"}
    catalog = Catalog.model_validate({"path": str(path), "id": "item", "where": "price >= 4", **age})
    if expected:
        assert read_catalog(catalog, "key", tmp_path, MEMORY) == expected
    else:
        with pytest.raises(UserError, match=f"^key: chooses no row of {path}$"):
            read_catalog(catalog, "key", tmp_path, MEMORY)
    assert list(tmp_path.iterdir()) == [path], "nothing is left over"
    path.unlink()


def test_lists_have_only_what_the_catalog_chooses(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "tweets.csv"
    path.write_text("id,language\n" + "".join(f"t{i},{'fr' if i % 3 else 'en'}\n" for i in range(40)))
    candidates = {"path": str(path), "where": "language = 'en'"}
    manifest = recommend_once(trained[1], "fav", {"candidates": candidates}, str(tmp_path / "lists"))
    assert (manifest.candidates, manifest.unknown_candidates) == (10, 4)  # t0 … t27 of 30, and t30 … t39
    found = {of for candidates in read_lists(tmp_path / "lists").values() for of, _ in candidates}
    assert found == {f"t{i}" for i in range(0, 30, 3)}


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ({"id": "tweet"}, "recommend.fav.candidates.id"),
        ({"where": "language == 'en'"}, "recommend.fav.candidates.where"),
        ({"where": "age > 3"}, "age"),
        ({"max_age": "3d"}, "timestamp: the age of a candidate needs both timestamp and max_age"),
        ({"max_age": "3d", "timestamp": "language"}, "recommend.fav.candidates: chooses no row of"),
        ({"where": "language = 'de'"}, "recommend.fav.candidates: chooses no row of"),
    ],
)
def test_mistakes_name_the_key_or_the_column(
    trained: Trained, tmp_path: Path, candidates: dict[str, str], message: str
) -> None:
    path = tmp_path / "tweets.csv"
    path.write_text("id,language\nt1,en\nt2,fr\n")
    with pytest.raises(UserError) as raised:
        recommend_once(trained[1], "fav", {"candidates": {"path": str(path), **candidates}}, str(tmp_path / "lists"))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "lists/manifest.json").exists()


def test_the_command_takes_a_condition(trained: Trained, tmp_path: Path) -> None:
    path = tmp_path / "tweets.csv"
    path.write_text("id,language\nt1,en\nt2,fr\n")
    arguments = ("recommend", trained[1], "--relation", "fav", "--output", tmp_path / "lists", "--json")
    done = twhin(*arguments, "--candidates", path, "--candidates-where", "language = 'fr'")
    assert done.returncode == 0, done.stderr
    assert {of for candidates in read_lists(tmp_path / "lists").values() for of, _ in candidates} == {"t2"}
    assert_refused(
        twhin(*arguments, "--candidates-where", "language = 'fr'"),
        "--candidates-where chooses from a file: --candidates",
    )
