"""Spark builds the same graph as DuckDB, and reports errors in one line."""

from __future__ import annotations

import gzip
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.command_line import ROOT, assert_refused, new_twhin, twhin
from tests.conftest import SmallConfig, write_raw
from tests.full_disk import small_files
from tests.graph.names import NAMES, ON_A_DISK, expected_rows, write_named
from tests.graph.reading import rejected, rows
from tests.graph.spark_session import SPARK, session
from tests.graph.test_broken_files import PROVOKED
from tests.object_store import STORES, reach, serve_bucket
from twhin_core.config import file as config_file
from twhin_core.config.prepare import Prepare
from twhin_core.config.sources import Source
from twhin_core.errors import UserError
from twhin_core.graph import spark_engine
from twhin_core.graph.connect import connect
from twhin_core.graph.copies import copy_file
from twhin_core.graph.manifest import SPLITS, Manifest, find_manifest
from twhin_core.graph.raw_files import check_sources
from twhin_core.paths import find_files
from twhin_core.stages.prepare import prepare

__all__ = ["session"]  # a fixture


def assert_same_graph(one: Path, other: Path, first: Manifest, second: Manifest, but: tuple[str, ...] = ()) -> None:
    """Asserts equal manifests, except for the division into files, and equal rows in the same order."""

    def without_files(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {key: without_files(value) for key, value in tree.items() if key not in ("files", "raw_files")}
        return [without_files(value) for value in tree] if isinstance(tree, list) else tree

    assert without_files(first.model_dump()) == without_files(second.model_dump())
    folders = [f"graph/vocab/{entry.name}" for entry in first.tables]
    folders += [*(f"graph/edges/{split}" for split in SPLITS), "graph/rejected"]
    for folder in set(folders) - set(but):
        assert pq.read_schema(next((one / folder).iterdir())).equals(pq.read_schema(next((other / folder).iterdir())))
        assert rows(one / folder) == rows(other / folder), folder


def messy(folder: Path, edges: int) -> list[dict[str, Any]]:
    """Parquet, CSV and zipped TSV sources with nulls, repeats, odd weights and times, of several relations."""
    rng = np.random.default_rng(3)
    users = np.array([*(f"u{i}" for i in range(edges // 20)), "é", "日本", " x", "", None], dtype=object)
    tweets = np.array([*(f"t{i}" for i in range(edges // 20)), "𝄞", "", None], dtype=object)
    weights = np.array([1.0, 2.5, 1e-30, 0.0, -1.0, None, float("nan")], dtype=object)

    def table(count: int) -> dict[str, list[Any]]:
        relation = rng.choice(np.array(["follow", "fav", "like", "odd", None], dtype=object), count)
        rhs = np.where(relation == "follow", rng.choice(users, count), rng.choice(tweets, count))
        return {
            "lhs": rng.choice(users, count).tolist(),
            "relation": relation.tolist(),
            "rhs": rhs.tolist(),
            "weight": rng.choice(weights, count).tolist(),
            "time": [None if value % 11 == 0 else int(value) for value in rng.integers(1, 5000, count)],
        }

    for part in range(3):
        pq.write_table(pa.table(table(edges // 4)), folder / f"part-{part}.parquet")
    lines = zip(*table(edges // 4).values(), strict=True)
    text = "".join("\t".join("" if value is None else str(value) for value in line) + "\n" for line in lines)
    (folder / "more.tsv").write_text(text)
    keys = {"relation_column": "relation", "weight": "weight", "timestamp": "time"}
    columns = ["lhs", "relation", "rhs", "weight", "time"]
    return [
        {"path": str(folder / "part-*.parquet"), **keys},
        {"path": str(folder / "more.tsv"), "columns": columns, **keys},
    ]


def test_the_same_graph_as_duckdb(small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config(prepare={"sources": messy(tmp_path, 4000)})
    spark = small_config(prepare={"sources": messy(tmp_path, 4000), **SPARK})
    manifest = prepare(config, str(tmp_path / "duckdb"))
    assert manifest.rejected.rows > 500
    assert_same_graph(tmp_path / "duckdb", tmp_path / "spark", manifest, prepare(spark, str(tmp_path / "spark")))


@pytest.mark.slow
def test_the_options_of_a_source(small_config: SmallConfig, tmp_path: Path) -> None:
    """Filters, lists and weights; follows have no times and stay in train. As DuckDB, and as counted here."""
    rng = random.Random(9)
    favs = [(f"u{rng.randrange(30)}", rng.choices(range(40), k=3), rng.randrange(1, 6), at) for at in range(300)]
    lines = [f"{user},{'|'.join(map(str, tweets))},{stars},{at}" for user, tweets, stars, at in favs]
    (tmp_path / "favs.csv").write_text("\n".join(["user,tweets,stars,at", *lines]))
    follows = [(f"u{one}", [f"u{other}" for other in rng.sample(range(30), 4)], rng.random()) for one in range(30)]
    names, followed, plays = (list(column) for column in zip(*follows, strict=True))
    pq.write_table(pa.table({"lhs": names, "rhs": followed, "plays": plays}), tmp_path / "follows.parquet")
    weight = {"transform": "log1p", "normalize": "relation", "clip": 1.5}
    sources: list[dict[str, Any]] = [
        {"path": str(tmp_path / "favs.csv"), "lhs": "user", "rhs": "tweets", "relation": "fav",
         "lists": {"tweets": "|"}, "timestamp": "at", "where": "stars >= 4 or stars = 1",
         "weight": {"column": "stars", **weight}},
        {"path": str(tmp_path / "follows.parquet"), "relation": "follow", "weight": {"column": "plays", **weight}},
    ]  # fmt: skip
    split = {"by": "last", "validation": 1, "test": 1, "relations": ["fav"]}
    (tmp_path / "titles.csv").write_text("id,label\n" + "".join(f"{at},Title {at}\n" for at in range(0, 60, 2)))
    labels = [{"table": "tweet", "path": str(tmp_path / "titles.csv")}]
    options: dict[str, Any] = {"sources": sources, "split": split, "repeats": "sum", "labels": labels}
    config, spark = small_config(prepare=options), small_config(prepare={**options, **SPARK})
    manifest = prepare(config, str(tmp_path / "duckdb"))
    edges = {(user, tweet) for user, tweets, stars, _ in favs for tweet in tweets if stars >= 4 or stars == 1}
    assert sum(manifest.relations[1].edges.values()) == len(edges)
    assert manifest.relations[0].edges == {"train": 30 * 4, "validation": 0, "test": 0}
    assert manifest.rejected.by_reason["filtered"] == 3 * sum(stars in (2, 3) for _, _, stars, _ in favs)
    assert_same_graph(tmp_path / "duckdb", tmp_path / "spark", manifest, prepare(spark, str(tmp_path / "spark")))
    found = rows(tmp_path / "spark/graph/labels/tweet")
    known = {tweet for _, tweet in edges if tweet % 2 == 0}
    assert {row["id"]: row["label"] for row in found} == {str(tweet): f"Title {tweet}" for tweet in known}
    assert found == rows(tmp_path / "duckdb/graph/labels/tweet")


@pytest.mark.slow
def test_the_same_graph_from_other_files_and_parts(
    small_config: SmallConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several relations, the rows in another order and other files, and several parts per split."""
    sources = messy(tmp_path, 400_000)
    split = {"by": "time", "validation": 0.1, "test": 0.2}
    manifest = prepare(small_config(prepare={"sources": sources, "split": split}), str(tmp_path / "duckdb"))
    table = pa.concat_tables(pq.read_table(file) for file in sorted(tmp_path.glob("part-*.parquet"), reverse=True))
    table = table.take(np.random.default_rng(1).permutation(len(table)))
    for part in range(7):
        pq.write_table(table.slice(part * len(table) // 7, len(table) // 7 + 7 * (part == 6)), tmp_path / f"{part}.pq")
    sources[0] |= {"path": str(tmp_path / "*.pq"), "format": "parquet"}
    for name in ("ROWS_PER_FILE", "ROWS_PER_GROUP"):
        monkeypatch.setattr(spark_engine, name, 20_000)
    spark = small_config(prepare={"sources": sources, "split": split, **SPARK})
    found = prepare(spark, str(tmp_path / "spark"))
    assert len(found.splits["train"].files) == 3
    # Rejected rows name their files, which are others.
    assert_same_graph(tmp_path / "duckdb", tmp_path / "spark", manifest, found, but=("graph/rejected",))
    assert Counter(rejected(tmp_path / "duckdb")) == Counter(rejected(tmp_path / "spark"))


@pytest.mark.slow
def test_the_same_graph_of_amazon_book(small_config: SmallConfig, tmp_path: Path) -> None:
    """Uses the real data set if TWHIN_DATA has it, or else a random one of the same form."""
    folder = Path(os.environ.get("TWHIN_DATA", tmp_path)) / "amazon-book"
    if not folder.exists():
        folder.mkdir()
        rng = np.random.default_rng(0)
        for name, count in (("train", 400_000), ("test", 100_000)):
            columns = {"user_id": rng.integers(30_000, size=count), "book_id": rng.integers(60_000, size=count)}
            pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    keys = {"lhs": "user_id", "rhs": "book_id", "relation": "fav"}
    sources = [{"path": str(folder / f"{split}.parquet"), "split": split, **keys} for split in ("train", "test")]
    relations = [{"name": "fav", "lhs": "user", "rhs": "tweet"}]
    changes = {"sources": sources, "split": None}
    manifests = [
        prepare(small_config(prepare={**changes, **engine}, model={"relations": relations}), str(tmp_path / name))
        for name, engine in (("duckdb", {}), ("spark", SPARK))
    ]
    assert sum(split.edges for split in manifests[0].splits.values()) > 400_000
    assert_same_graph(tmp_path / "duckdb", tmp_path / "spark", *manifests)


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"lhs,rhs\na,b\nc\n", "line 3: "),
        ("a.tsv", b"lhs\trhs\na\tb\nc\td\te\n", "line 3: "),
        ("a.csv", b"lhs,rhs\n" + b"a,b\n" * 5000 + b"\xff\xfe,c\n", ""),
        (
            "a.csv.gz",
            gzip.compress(b"lhs,rhs\n" + b"".join(b"%d,%d\n" % (i * 7919, i) for i in range(9999)))[:-999],
            "",
        ),
    ],
)
def test_a_broken_row_gives_the_same_message_as_duckdb(
    small_config: SmallConfig, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    messages = []
    for engine in ({}, SPARK):
        source = {"path": str(tmp_path / name), "relation": "fav"}
        with pytest.raises(UserError) as raised:
            prepare(small_config(prepare={"sources": [source], **engine}), str(tmp_path / "run"))
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert str(tmp_path / name) in messages[0]
    assert said in messages[0]
    assert "\n" not in messages[0]
    assert not (tmp_path / "run/graph/manifest.json").exists()


def test_keeping_a_table_again_removes_the_old_one(small_config: SmallConfig, tmp_path: Path) -> None:
    settings = small_config(prepare={**SPARK, "temp_directory": str(tmp_path / "scratch")}).prepare
    assert settings is not None
    with connect(settings) as engine:
        table = engine.keep("numbers", ibis.memtable({"n": [1, 2, 3], "text": ["a", None, ""]}))
        assert set(table.to_pyarrow()["text"].to_pylist()) == {"a", None, ""}
        for expected in ([2, 3], [3]):
            table = engine.keep("numbers", table.filter(table.n > table.n.min()))
            assert sorted(table.to_pyarrow()["n"].to_pylist()) == expected
        (tables,) = (tmp_path / "scratch").glob("twhin-prepare-*/tables")
        assert [path.name for path in tables.iterdir()] == ["numbers_2"]
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.usefixtures("session")
@pytest.mark.parametrize(
    "place", ["s3://bucket/t", "s3a://bucket/t", "abfs://c@a.dfs.core.windows.net/t", "abfss://c@a/t", "gs://bucket/t"]
)
def test_a_place_for_which_spark_has_no_jars(place: str, small_config: SmallConfig) -> None:
    keys = {**SPARK, "spark_master": "spark://host:7077", "temp_directory": place}
    settings = small_config(prepare=keys).prepare
    assert settings is not None
    with pytest.raises(UserError, match=f"^prepare.temp_directory: {place}: Spark lacks the jars for it") as caught:
        connect(settings).__enter__()
    assert "\n" not in str(caught.value)


@pytest.fixture
def spark_yaml(small_config: SmallConfig, tmp_path: Path) -> Callable[..., Path]:
    """Writes a config for Spark, for processes that have no session yet."""

    def write(**keys: Any) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(config_file.to_yaml(small_config(prepare={**SPARK, **keys})))
        return path

    return write


def test_no_pyspark(spark_yaml: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "without/pyspark").mkdir(parents=True)
    (tmp_path / "without/pyspark/__init__.py").write_text("raise ModuleNotFoundError('No module named pyspark')")
    path = f"{tmp_path / 'without'}{os.pathsep}{ROOT}"
    ran = new_twhin("prepare", spark_yaml(), "--run-root", tmp_path / "run", PYTHONPATH=path)
    assert_refused(ran, "prepare.engine", "PySpark", "twhin[spark]")


@pytest.mark.parametrize("variables", [{"PATH": "/nowhere", "JAVA_HOME": None}, {"JAVA_HOME": "/nowhere"}])
def test_no_java(spark_yaml: Callable[..., Path], tmp_path: Path, variables: dict[str, str | None]) -> None:
    ran = twhin("prepare", spark_yaml(), "--run-root", tmp_path / "run", **variables)
    assert_refused(ran, "prepare.engine", "Java 17")


@pytest.mark.slow
def test_too_little_memory(spark_yaml: Callable[..., Path], tmp_path: Path) -> None:
    ran = twhin("prepare", spark_yaml(memory_limit="100MB"), "--run-root", tmp_path / "run")
    assert_refused(ran, "prepare.memory_limit", "100MB is too small for Spark")


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
def test_sources_and_results_on_an_object_store(
    store: str,
    spark_yaml: Callable[..., Path],
    small_config: SmallConfig,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Spark's tasks reach it through this package, with the variables of their machine and no jars."""
    expected = prepare(small_config(), str(tmp_path / "local"))
    with serve_bucket(store=store) as server:
        bucket = reach(server, monkeypatch)
        copy_file(str(tmp_path / "raw.parquet"), f"{bucket}/raw.parquet")
        sources = [{"path": f"{bucket}/*.parquet", "relation_column": "relation"}]
        config = spark_yaml(sources=sources, spark_master="local[1]")
        ran = new_twhin("prepare", config, "--run-root", f"{bucket}/run")
        assert ran.returncode == 0, ran.stderr
        for file in find_files(f"{bucket}/run"):
            copy_file(file.url, str(tmp_path / file.url.removeprefix(f"{bucket}/")))
        found = find_manifest(f"{bucket}/run")
    assert_same_graph(tmp_path / "run", tmp_path / "local", found, expected)


@pytest.mark.slow
def test_a_full_disk(spark_yaml: Callable[..., Path], tmp_path: Path) -> None:
    """Limits files to 4 MB in a child process; a table kept between steps exceeds that first."""
    write_raw(tmp_path / "raw.parquet", users=3000, tweets=3000, edges=600_000)
    config = spark_yaml(temp_directory=str(tmp_path / "scratch"), spark_master="local[1]")
    with small_files(4 << 20):
        ran = new_twhin("prepare", config, "--run-root", tmp_path / "run")
    assert_refused(ran, "prepare.temp_directory", str(tmp_path / "scratch"), "is full")
    assert not (tmp_path / "run/graph/manifest.json").exists()
    assert not list((tmp_path / "scratch").iterdir())


# --- names and broken files, as for DuckDB -----------------------------------------------------------------------


@pytest.mark.slow
def test_files_of_every_name(small_config: SmallConfig, tmp_path: Path) -> None:
    """Also in a temporary folder of such a name, and with columns from the folders' names."""
    write_named(f"{tmp_path}/raw[1]", NAMES + ON_A_DISK)
    source = Source(path=f"{tmp_path}/raw[[]1]", relation="r")
    settings = Prepare(sources=[source], **SPARK, temp_directory=str(tmp_path / "t[m]p {a} b*?"))
    with connect(settings) as engine:
        rows = engine.keep("rows", engine.keep("rows", engine.read(check_sources([source]))))
        found = sorted(rows.select("lhs", "file").to_pyarrow().to_pylist(), key=str)
    assert found == expected_rows(f"{tmp_path}/raw[1]", NAMES + ON_A_DISK)


@pytest.mark.slow
def test_partition_folders(small_config: SmallConfig, tmp_path: Path) -> None:
    for day, kind in ((1, "follow"), (2, "fav"), (3, "fav")):
        folder = tmp_path / f"raw/kind={kind}/day=2023-01-0{day}"
        folder.mkdir(parents=True)
        (folder / "part-0.csv").write_text("lhs,rhs\n" + "".join(f"u{i},v{i}-{day}\n" for i in range(40)))
    sources = [{"path": str(tmp_path / "raw"), "relation_column": "kind", "timestamp": "day"}]
    split = {"by": "time", "validation": 0.0, "test": 0.34}
    manifests = [
        prepare(small_config(prepare={"sources": sources, "split": split, **engine}), str(tmp_path / name))
        for name, engine in (("duckdb", {}), ("spark", SPARK))
    ]
    assert manifests[0].relations[1].edges == {"train": 40, "validation": 0, "test": 40}
    assert_same_graph(tmp_path / "duckdb", tmp_path / "spark", *manifests)


@pytest.mark.parametrize("case", PROVOKED)
def test_a_provoked_error_has_the_same_message_as_on_duckdb(tmp_path: Path, case: str) -> None:
    name, data, said = PROVOKED[case]
    (tmp_path / name).write_bytes(data)
    source = Source(path=str(tmp_path), relation="r", timestamp="time" if case.startswith("milli") else None)
    messages = []
    for settings in (Prepare(sources=[source]), Prepare(sources=[source], **SPARK)):
        with pytest.raises(UserError) as raised, connect(settings) as engine:
            engine.keep("rows", engine.read(check_sources([source])))
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"{tmp_path}/{name}: ")
    assert said in messages[0]
