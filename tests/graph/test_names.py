"""Files with names of every kind are read once each, and their folders' names are columns; also on an object store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.graph.names import NAMES, ON_A_DISK, expected_rows, write_named
from tests.graph.test_sources import read, refused
from tests.object_store import STORES, reach, serve_bucket
from twhin_core.config.prepare import Prepare
from twhin_core.config.sources import Source
from twhin_core.graph.connect import connect
from twhin_core.graph.raw_files import check_sources


def rows_of(path: str) -> list[dict[str, Any]]:
    source = Source(path=path, relation="r")
    with connect(Prepare(sources=[source])) as engine:
        rows = engine.keep("rows", engine.read(check_sources([source])))
        return sorted(rows.select("lhs", "file").to_pyarrow().to_pylist(), key=str)


@pytest.mark.parametrize("folder", ["plain", "run[1]", "a*", "w?i{l}d 'name'"])
def test_each_file_is_read_once(tmp_path: Path, folder: str) -> None:
    write_named(f"{tmp_path}/{folder}", NAMES + ON_A_DISK)
    write_named(f"{tmp_path}/run1", ["p1.csv"])
    written = f"{tmp_path}/{folder.replace('[', '[[]')}"
    assert rows_of(written) == expected_rows(f"{tmp_path}/{folder}", NAMES + ON_A_DISK)
    for name in ("p[[]1].csv", "q[?].tsv", "d[[]1]/*"):
        one = [name.replace("[[]", "[").replace("[?]", "?").replace("/*", "/p.csv")]
        assert rows_of(f"{written}/{name}") == expected_rows(f"{tmp_path}/{folder}", one)


def test_a_backslash(tmp_path: Path) -> None:
    write_named(str(tmp_path), ["back\\slash.csv"])
    assert rows_of(str(tmp_path)) == expected_rows(str(tmp_path), ["back\\slash.csv"])
    write_named(str(tmp_path), ["back\\s[la]sh.csv"])  # which DuckDB cannot open
    message = refused(Source(path=str(tmp_path), relation="r"))
    assert message.startswith(f"{tmp_path}/back\\s[la]sh.csv: a backslash and one of * ? [ cannot both be in a path")


@pytest.mark.parametrize("store", STORES)
def test_each_object_is_read_once(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_bucket(store=store) as server:
        raw = f"{reach(server, monkeypatch)}/raw"
        write_named(raw, [*NAMES, "_temporary/0/p.csv"])
        assert rows_of(raw) == expected_rows(raw, NAMES)
        assert rows_of(f"{raw}/p[[]1].*") == expected_rows(raw, ["p[1].csv", "p[1].parquet"])


# --- partition folders -------------------------------------------------------------------------------------------


@pytest.fixture(params=["csv", "parquet"])
def write(request: pytest.FixtureRequest) -> Any:
    """Writes an edge from `lhs` to x, as CSV or Parquet."""

    def write_edge(folder: Path, lhs: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if request.param == "csv":
            (folder / "part-0.csv").write_text(f"lhs,rhs\n{lhs},x\n")
        else:
            pq.write_table(pa.table({"lhs": [lhs], "rhs": ["x"]}), folder / "part-0.parquet")

    return write_edge


def test_partition_folders_are_columns(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "raw/kind=fav/day=2023-01-01", "a")
    write(tmp_path / "raw/kind=a%2Fb%20c/day=2023-01-02", "b")
    write(tmp_path / "raw/kind=__HIVE_DEFAULT_PARTITION__/day=1970-01-01", "c")
    write(tmp_path / "raw/kind=/day=never", "d")
    write(tmp_path / "raw/kind=é+f/day=1970-01-01", "e")
    write(tmp_path / "raw/kind=outer/kind=inner/day=1970-01-01", "f")
    for path in (tmp_path / "raw", tmp_path / "raw/**", tmp_path / "raw/kind=*"):
        rows = read(Source(path=str(path), relation_column="kind", timestamp="day"))
        assert [(row[0], row[1], row[4]) for row in rows] == [
            ("a", "fav", 1672531200), ("b", "a/b c", 1672617600), ("c", None, 0), ("d", None, None), ("e", "é+f", 0),
            ("f", "inner", 0),
        ]  # fmt: skip


def test_partition_folders_of_numbers_and_ids(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "weight=2.5/hour=07/user=u1", "a")
    write(tmp_path / "weight=heavy/hour=-3/user=", "b")
    rows = read(Source(path=str(tmp_path), relation="r", rhs="user", weight="weight", timestamp="hour"))
    assert rows == [("a", "r", "u1", 2.5, 7, None), ("b", "r", None, None, -3, None)]


def test_a_name_with_special_characters(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "a.b%2F(c)=1", "a")
    write(tmp_path / "aXb%2F(c)=2/a.b%2F(c)=3", "b")
    rows = read(Source(path=str(tmp_path), relation_column="a.b/(c)"))
    assert [(row[0], row[1]) for row in rows] == [("a", "1"), ("b", "3")]


def test_a_column_of_the_file_comes_before_a_folder(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "lhs=other", "a")
    assert read(Source(path=str(tmp_path), relation="r"))[0][0] == "a"


def test_a_partition_that_some_files_lack(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "kind=fav", "a")
    write(tmp_path / "stray", "b")
    message = refused(Source(path=str(tmp_path), relation_column="kind"))
    assert message.startswith(f"{tmp_path}/stray/part-0.")
    assert "has no column 'kind' (relation_column); its columns are lhs, rhs" in message


def test_times_of_folders_and_files_are_of_one_type(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "t=17", "a")
    write(tmp_path / "t=2023-01-01", "b")
    assert "times of different types" in refused(Source(path=str(tmp_path), relation="r", timestamp="t"))
