"""From raw files to a graph: small ones by hand, larger ones by laws."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig
from tests.graph.reading import edges, ids, rejected, rows
from twhin_core import storage
from twhin_core.config.prepare import Prepare
from twhin_core.errors import UserError
from twhin_core.graph import build as module
from twhin_core.graph.duckdb_engine import DuckDBEngine
from twhin_core.graph.manifest import SPLITS, Manifest, read_manifest, read_schema
from twhin_core.stages.prepare import prepare

Row = tuple[Any, ...]


def write(path: Path, columns: str, *entries: Row) -> str:
    """A Parquet file of the rows."""
    data = zip(*entries, strict=True) if entries else [[]] * len(columns.split())
    pq.write_table(pa.table({name: list(column) for name, column in zip(columns.split(), data, strict=True)}), path)
    return str(path)


def source(path: str, **keys: Any) -> dict[str, Any]:
    return {"path": path, **({} if "relation" in keys else {"relation_column": "relation"}), **keys}


def all_edges(root: Path, manifest: Manifest) -> dict[str, set[tuple[str, str, str]]]:
    return {split: set(edges(root, manifest, split)) for split in SPLITS}


def test_a_graph_by_hand(small_config: SmallConfig, tmp_path: Path) -> None:
    columns = "lhs relation rhs"
    train = write(
        tmp_path / "train.parquet",
        columns,
        ("a", "follow", "b"),
        ("a", "follow", "c"),
        ("b", "fav", "t1"),
        ("b", "fav", "t1"),
        ("c", "block", "a"),
        (None, "fav", "t1"),
        ("c", None, "a"),
    )
    test = write(tmp_path / "test.parquet", columns, ("c", "fav", "t2"), ("a", "follow", "b"), ("c", "fav", ""))
    config = small_config(
        prepare={"sources": [source(train, split="train"), source(test, split="test")], "split": None}
    )
    root = tmp_path / "run"

    manifest = prepare(config, str(root))

    assert all_edges(root, manifest) == {
        "train": {("a", "follow", "b"), ("a", "follow", "c"), ("b", "fav", "t1")},
        "validation": set(),
        "test": {("c", "fav", "t2")},
    }
    # md5 of the ids, from md5sum: a 0cc1…, b 92eb…, c 4a8a…; t1 83f1…, t2 0f82…
    assert ids(root, "user") == ["a", "c", "b"]
    assert ids(root, "tweet") == ["t2", "t1"]
    # Ends of train edges: a starts two, b ends one and starts one, c ends one; t2 has a test edge only.
    assert [(row["index"], row["degree"]) for row in rows(root / "graph/vocab/user")] == [(0, 2), (1, 1), (2, 2)]
    assert [(row["index"], row["degree"]) for row in rows(root / "graph/vocab/tweet")] == [(0, 0), (1, 1)]
    assert sorted(rejected(root), key=str) == sorted(
        [
            ("b", "fav", "t1", "duplicate"),
            ("a", "follow", "b", "duplicate"),
            ("c", "block", "a", "unknown_relation"),
            ("c", None, "a", "unknown_relation"),
            (None, "fav", "t1", "null_id"),
            ("c", "fav", None, "null_id"),
        ],
        key=str,
    )
    of_test = {row["source"] for row in rows(root / "graph/rejected") if (row["lhs"], row["rhs"]) == ("a", "b")}
    assert of_test == {test}  # the copy in train stays
    assert manifest.rejected.by_reason == {"duplicate": 2, "null_id": 2, "unknown_relation": 2}
    assert [(entry.name, entry.num_embeddings) for entry in manifest.tables] == [("user", 3), ("tweet", 2)]
    assert [(entry.name, entry.edges) for entry in manifest.relations] == [
        ("follow", {"train": 2, "validation": 0, "test": 0}),
        ("fav", {"train": 1, "validation": 0, "test": 1}),
    ]
    assert not manifest.weighted
    assert pq.read_schema(root / "graph/edges/train/part-00000.parquet").names == ["lhs", "rel", "rhs"]
    assert read_manifest(str(root)) == manifest
    assert read_schema(config, str(root)).tables == {"user": 3, "tweet": 2}


def test_every_row_becomes_an_edge_or_is_kept_with_its_reason(small_config: SmallConfig, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    choices = {
        "lhs": ["a", "b", "c", "d", "", None],
        "relation": ["follow", "follow", "follow", "poke", None],
        "rhs": ["a", "b", "c", "d", "e", None],
        "weight": [1.0, 2.5, 1e-30, 3e38, None, 0.0, -1.0, float("nan"), float("inf"), 1e39, 1e-40],
        "time": [1, 2, 3, None],
    }
    picked = {name: [values[i] for i in rng.integers(len(values), size=2000)] for name, values in choices.items()}
    pq.write_table(pa.table(picked), tmp_path / "raw.parquet")
    raw = source(str(tmp_path / "raw.parquet"), weight="weight", timestamp="time")
    table = [{"name": "user", "embedding_dim": 4, "optimizer": {"sgd": {"lr": 0.1}}}]
    config = small_config(
        prepare={"sources": [raw], "split": {"by": "time", "validation": 0.0, "test": 0.0}},
        model={"embeddings": {"tables": table}, "relations": [{"name": "follow", "lhs": "user", "rhs": "user"}]},
    )

    manifest = prepare(config, str(tmp_path / "run"))

    reasons: Counter[str] = Counter()
    kept: set[tuple[str, str]] = set()
    for lhs, relation, rhs, weight, time in zip(*picked.values(), strict=True):
        if not lhs or not rhs:
            reasons["null_id"] += 1
        elif relation != "follow":
            reasons["unknown_relation"] += 1
        elif weight not in (1.0, 2.5, 1e-30, 3e38):
            reasons["invalid_weight"] += 1
        elif time is None:
            reasons["null_timestamp"] += 1
        elif (lhs, rhs) in kept:
            reasons["duplicate"] += 1
        else:
            kept.add((lhs, rhs))
    assert manifest.rejected.by_reason == dict(reasons)
    assert {(lhs, rhs) for lhs, _, rhs in edges(tmp_path / "run", manifest, "train")} == kept
    assert sum(entry.edges for entry in manifest.splits.values()) + manifest.rejected.rows == 2000
    assert Counter(reason for *_, reason in rejected(tmp_path / "run")) == reasons


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_an_id_may_have_64_kib_and_no_more(small_config: SmallConfig, tmp_path: Path, form: str) -> None:
    longest = ["é" * 32_768, "e" * 65_536]
    too_long = ["é" * 32_768 + "e", "e" * 65_537, "€" * 30_000]  # of fewer letters than bytes
    rows_ = [("a", "follow", one) for one in [*longest, *too_long]] + [(too_long[1], "fav", "t"), ("a", "fav", "t")]
    path = write(tmp_path / "raw.parquet", "lhs relation rhs", *rows_)
    if form == "csv":
        path = str(tmp_path / "raw.csv")
        Path(path).write_text("".join(",".join(row) + "\n" for row in [("lhs", "relation", "rhs"), *rows_]))
    config = small_config(prepare={"sources": [source(path)], "split": {"validation": 0.0, "test": 0.0}})
    manifest = prepare(config, str(tmp_path / "run"))
    assert manifest.rejected.by_reason == {"long_id": 4}
    assert set(ids(tmp_path / "run", "user")) == {"a", *longest}
    assert {row[2] for row in rejected(tmp_path / "run") if row[1] == "follow"} == set(too_long)


def test_a_time_that_cannot_be_read_is_no_edge(small_config: SmallConfig, tmp_path: Path) -> None:
    text = "lhs,relation,rhs,t\na,follow,b,1\na,follow,c,\na,follow,d,soon\na,fav,t,2\n"
    (tmp_path / "raw.csv").write_text(text)
    raw = [source(str(tmp_path / "raw.csv"), timestamp="t")]
    none = {"validation": 0.0, "test": 0.0}
    manifest = prepare(small_config(prepare={"sources": raw, "split": none}), str(tmp_path / "run"))
    assert manifest.rejected.by_reason == {"invalid_timestamp": 1}
    by_time = small_config(prepare={"sources": raw, "split": {"by": "time", **none}})
    manifest = prepare(by_time, str(tmp_path / "timed"))
    assert manifest.rejected.by_reason == {"invalid_timestamp": 1, "null_timestamp": 1}


def test_a_weight_that_is_no_number_is_found_whatever_the_statistics(small_config: SmallConfig, tmp_path: Path) -> None:
    """A Parquet file's statistics leave it out: by them, all weights of this one are sound."""
    entries = [("a", "follow", "b", 1.0), ("a", "follow", "c", float("nan")), ("a", "fav", "t", 2.0)]
    path = write(tmp_path / "raw.parquet", "lhs relation rhs weight", *entries)
    known = pq.ParquetFile(path).metadata.row_group(0).column(3).statistics
    assert (known.min, known.max) == (1.0, 2.0)
    none = {"validation": 0.0, "test": 0.0}
    config = small_config(prepare={"sources": [source(path, weight="weight")], "split": none})
    manifest = prepare(config, str(tmp_path / "run"))
    assert manifest.rejected.by_reason == {"invalid_weight": 1}
    assert all_edges(tmp_path / "run", manifest)["train"] == {("a", "follow", "b"), ("a", "fav", "t")}


def test_weights_are_added_up_whatever_their_order(small_config: SmallConfig, tmp_path: Path) -> None:
    """The sum of each order of 1000 weights is another in floating point."""
    rng = np.random.default_rng(2)
    weights = (10.0 ** rng.uniform(-6, 6, 1000)).tolist()
    found = []
    for name in ("once", "again"):
        rng.shuffle(weights)
        entries = [("a", "follow", "b", weight) for weight in weights] + [("a", "fav", "t", 1.0)] * 3
        heavy = [("a", "follow", "c", 3e38)] * 2  # together beyond a float32
        path = write(tmp_path / f"{name}.parquet", "lhs relation rhs weight", *entries, *heavy)
        keys = {"sources": [source(path, weight="weight")], "repeats": "sum"}
        config = small_config(prepare={**keys, "split": {"validation": 0.0, "test": 0.0}})
        manifest = prepare(config, str(tmp_path / name / "run"))
        assert manifest.rejected.by_reason == {"invalid_weight": 1, "merged": 1002}
        folder = tmp_path / name / "run/graph/edges/train"
        found.append({row["rel"]: row["weight"] for row in rows(folder)})
    assert found[0] == found[1] == {0: np.float32(math.fsum(weights)), 1: 3.0}


def test_of_duplicates_the_first_split_then_the_earliest_then_the_heaviest_stays(
    small_config: SmallConfig, tmp_path: Path
) -> None:
    columns = "lhs rhs weight time"
    train = write(
        tmp_path / "train.parquet",
        columns,
        ("a", "b", 1.0, 5),
        ("a", "b", 2.0, 5),
        ("a", "b", 9.0, 6),
        ("a", "b", 8.0, None),
        ("b", "c", 3.0, 9),
    )
    test = write(tmp_path / "test.parquet", columns, ("b", "c", 4.0, 1), ("c", "d", 7.0, 1))
    keys = {"relation": "follow", "weight": "weight", "timestamp": "time"}
    sources = [source(test, split="test", **keys), source(train, split="train", **keys)]
    fav = source(write(tmp_path / "fav.parquet", "lhs rhs", ("a", "t")), relation="fav", split="train")
    config = small_config(prepare={"sources": [*sources, fav], "split": None})
    root = tmp_path / "run"
    manifest = prepare(config, str(root))
    weights = {
        edge: row["weight"]
        for split in SPLITS
        for edge, row in zip(edges(root, manifest, split), rows(root / "graph/edges" / split), strict=True)
    }
    assert weights == {
        ("a", "follow", "b"): 2.0,
        ("b", "follow", "c"): 3.0,
        ("c", "follow", "d"): 7.0,
        ("a", "fav", "t"): 1.0,  # of a source without weights
    }
    assert manifest.splits["train"].edges == 3
    schema = pq.read_schema(root / "graph/edges/train/part-00000.parquet")
    columns_written = [("lhs", pa.int64()), ("rel", pa.int32()), ("rhs", pa.int64()), ("weight", pa.float32())]
    assert schema.equals(pa.schema([*columns_written, ("time", pa.int64())]))


def test_the_graph_depends_on_the_rows_alone(
    small_config: SmallConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config()
    once = prepare(config, str(tmp_path / "once"))
    table = pq.read_table(tmp_path / "raw.parquet")
    table = table.take(np.random.default_rng(1).permutation(len(table)))
    folder = tmp_path / "files"
    folder.mkdir()
    for part, start in enumerate(range(0, len(table), 7)):
        pq.write_table(table.slice(start, 7), folder / f"{part * 37 % 101:03d}.parquet")
    connect = module.connect

    @contextmanager
    def one_thread(settings: Prepare) -> Iterator[DuckDBEngine]:
        with connect(settings) as engine:
            assert isinstance(engine, DuckDBEngine)
            engine.backend.raw_sql("SET threads = 1")
            yield engine

    monkeypatch.setattr(module, "connect", one_thread)
    again = prepare(small_config(prepare={"sources": [source(str(folder))]}), str(tmp_path / "again"))
    assert again.raw_files != once.raw_files
    but = {"raw_files": []}
    assert again.model_copy(update=but) == once.model_copy(update=but)  # checksums of every file included


def test_random_splits_have_their_shares_and_are_stable(small_config: SmallConfig, tmp_path: Path) -> None:
    pairs = [(f"u{i % 97}", "fav", f"t{i // 97}") for i in range(9000)]
    follow = ("u0", "follow", "u1")
    less = write(tmp_path / "less.parquet", "lhs relation rhs", follow, *pairs[:6000])
    more = write(tmp_path / "more.parquet", "lhs relation rhs", *pairs, follow)
    splits = {}
    for name, path, seed in (("less", less, 0), ("more", more, 0), ("seed", more, 1)):
        split = {"validation": 0.1, "test": 0.2, "seed": seed}
        config = small_config(prepare={"sources": [source(path)], "split": split})
        splits[name] = all_edges(tmp_path / name, prepare(config, str(tmp_path / name)))
    for split in SPLITS:  # more edges do not move those that were there
        assert splits["less"][split] == splits["more"][split] & {*pairs[:6000], follow}
    sizes = [len(splits["more"][split]) for split in SPLITS]
    assert sum(sizes) == 9001
    for size, share in zip(sizes, (0.7, 0.1, 0.2), strict=True):  # within 4 standard deviations
        assert abs(size - 9001 * share) < 4 * (9001 * share * (1 - share)) ** 0.5
    # A seed splits independently of another: a fifth of a fifth is in both test sets.
    both = len(splits["more"]["test"] & splits["seed"]["test"])
    assert abs(both - 9001 * 0.04) < 4 * (9001 * 0.04 * 0.96) ** 0.5


def test_the_order_of_edges_and_their_split_follow_the_hash(small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config(prepare={"split": {"validation": 0.25, "test": 0.125, "seed": 3}})
    manifest = prepare(config, str(tmp_path / "run"))
    raw = {tuple(row.values()) for row in pq.read_table(tmp_path / "raw.parquet").to_pylist()}
    digests = {hashlib.md5("\t".join(["3", *edge]).encode()).hexdigest(): edge for edge in raw}
    expected: dict[str, list[Any]] = {split: [] for split in SPLITS}
    for digest in sorted(digests):  # 1/8 of all hashes begin with less than 2, 3/8 with less than 6
        split = "test" if digest < "2" else "validation" if digest < "6" else "train"
        expected[split].append(digests[digest])
    assert {split: edges(tmp_path / "run", manifest, split) for split in SPLITS} == expected


@pytest.mark.parametrize("kind", ["integer", "timestamp", "date"])
def test_the_latest_edges_are_held_out(small_config: SmallConfig, tmp_path: Path, kind: str) -> None:
    # Days 1 … 10; at shares .2 and .3 the edges of days 9 and 10 are test, 6 to 8 validation.
    days = [3, 9, 1, 7, 5, 10, 2, 8, 6, 4]
    second = 86_400 if kind == "timestamp" else 1
    types = {"integer": pa.int64(), "timestamp": pa.timestamp("s", tz="UTC"), "date": pa.date32()}
    number = pa.int64() if kind == "timestamp" else pa.int32()
    time = pa.array([day * second for day in days], number).cast(types[kind])
    edges_of_days = [("a", "fav" if day == 1 else "follow", f"u{day}") for day in days]
    lhs, relation, rhs = zip(*edges_of_days, strict=True)
    path = tmp_path / "edges.parquet"
    pq.write_table(pa.table({"lhs": lhs, "relation": relation, "rhs": rhs, "day": time}), path)
    config = small_config(
        prepare={
            "sources": [source(str(path), timestamp="day")],
            "split": {"by": "time", "validation": 0.3, "test": 0.2},
        }
    )
    found = all_edges(tmp_path / "run", prepare(config, str(tmp_path / "run")))
    assert {rhs for _, _, rhs in found["test"]} == {"u9", "u10"}
    assert {rhs for _, _, rhs in found["validation"]} == {"u6", "u7", "u8"}


def test_edges_of_one_time_stay_together(small_config: SmallConfig, tmp_path: Path) -> None:
    entries = [("a", "follow", f"u{i}", min(i, 8)) for i in range(9)] + [("a", "follow", "v", 8), ("a", "fav", "t", 5)]
    path = write(tmp_path / "edges.parquet", "lhs relation rhs time", *entries)
    split = {"by": "time", "validation": 0.1, "test": 0.2}
    config = small_config(prepare={"sources": [source(path, timestamp="time")], "split": split})
    found = all_edges(tmp_path / "run", prepare(config, str(tmp_path / "run")))
    assert {rhs for _, _, rhs in found["test"]} == {"u8", "v"}
    assert {rhs for _, _, rhs in found["validation"]} == {"u7"}


def test_a_star_stands_for_the_relations_without_entry(small_config: SmallConfig, tmp_path: Path) -> None:
    names = ["zeta", "follow", "alpha", "mid", "fav"]
    path = write(tmp_path / "raw.parquet", "lhs relation rhs", *((f"a{i}", name, "b") for i, name in enumerate(names)))
    user = {"lhs": "user", "rhs": "user"}
    relations = [{"name": "fav", "lhs": "user", "rhs": "tweet"}, {"name": "*", **user}, {"name": "follow", **user}]
    config = small_config(
        prepare={"sources": [source(path)], "split": {"validation": 0.0, "test": 0.0}}, model={"relations": relations}
    )
    manifest = prepare(config, str(tmp_path / "run"))
    assert [entry.name for entry in manifest.relations] == ["fav", "alpha", "mid", "zeta", "follow"]
    assert [entry.rhs for entry in manifest.relations] == ["tweet", "user", "user", "user", "user"]
    assert {relation for _, relation, _ in edges(tmp_path / "run", manifest, "train")} == set(names)
    assert [relation.name for relation in read_schema(config, str(tmp_path / "run")).relations][1] == "alpha"


def test_a_finished_graph_is_found(small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config()
    once = prepare(config, str(tmp_path / "run"))
    (tmp_path / "raw.parquet").unlink()
    assert prepare(config, str(tmp_path / "run")) == once


def test_half_written_output_is_replaced(
    small_config: SmallConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, root = small_config(), tmp_path / "run"
    write_graph = module.write_graph

    def die_at_the_end(*arguments: Any) -> Manifest:
        write_graph(*arguments)
        shutil.copy(root / "graph/edges/train/part-00000.parquet", root / "graph/edges/train/part-00001.parquet")
        (root / "graph/vocab/gone").mkdir()
        (root / "graph/vocab/gone/part-00000.parquet").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_graph", die_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        prepare(config, str(root))
    with pytest.raises(UserError, match="no finished graph"):
        read_schema(config, str(root))
    monkeypatch.setattr(module, "write_graph", write_graph)

    manifest = prepare(config, str(root))

    assert manifest == prepare(config, str(tmp_path / "clean"))
    for entry in (*manifest.tables, *manifest.splits.values(), manifest.rejected):
        for file in entry.files:
            assert hashlib.sha256((root / file.path).read_bytes()).hexdigest() == file.sha256
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    listed = {
        file.path for entry in (*manifest.tables, *manifest.splits.values(), manifest.rejected) for file in entry.files
    }
    assert files - {".leases/prepare", ".leases/prepare.activity", ".leases/config"} == {
        "config.yaml",
        "durations/prepare.json",
        "graph/manifest.json",
        *listed,
    }
    assert storage.read_json(f"{root}/graph/manifest.json") == manifest.model_dump(mode="json")


# --- mistakes ----------------------------------------------------------------------------------------------------


def assert_refused(config: Any, root: Path, *parts: str) -> None:
    """Prepare ends with a UserError of one line that holds all `parts`, and leaves no graph."""
    with pytest.raises(UserError) as raised:
        prepare(config, str(root))
    message = str(raised.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    assert not (root / "graph/manifest.json").exists()


def test_a_fixed_relation_without_entry(small_config: SmallConfig, tmp_path: Path) -> None:
    raw = [source(str(tmp_path / "raw.parquet"), relation="poke")]
    config = small_config(prepare={"sources": raw})
    assert_refused(config, tmp_path / "run", "prepare.sources.0.relation", "'poke'", "fav, follow")


def test_a_sample_of_a_relation_that_no_row_has(small_config: SmallConfig, tmp_path: Path) -> None:
    small_config()
    relations = [{"name": "fav", "lhs": "user", "rhs": "tweet"}, {"name": "*", "lhs": "user", "rhs": "user"}]
    config = small_config(prepare={"sampling": {"follow": 0.5, "poke": 0.5}}, model={"relations": relations})
    assert_refused(config, tmp_path / "run", "prepare.sampling: no row has the relation 'poke'")


def test_degrees_that_nothing_has(small_config: SmallConfig, tmp_path: Path) -> None:
    config = small_config(prepare={"min_degree": {"tweet": 1000, "user": 1000}})
    assert_refused(config, tmp_path / "run", "no edges are left; rejected: low_degree 600")


def test_a_vocabulary_larger_than_its_table(small_config: SmallConfig, tmp_path: Path) -> None:
    sgd = {"sgd": {"lr": 0.1}}
    tables = [
        {"name": "user", "embedding_dim": 4, "optimizer": sgd, "num_embeddings": 39},
        {"name": "tweet", "embedding_dim": 4, "optimizer": sgd},
    ]
    config = small_config(model={"embeddings": {"tables": tables}})
    assert_refused(config, tmp_path / "run", "user has num_embeddings 39", "vocabulary has 40")


def test_an_empty_source(small_config: SmallConfig, tmp_path: Path) -> None:
    small_config()
    schema = pa.schema([(name, pa.string()) for name in ("lhs", "relation", "rhs")])
    pq.write_table(schema.empty_table(), tmp_path / "empty.parquet")
    raw = [source(str(tmp_path / name)) for name in ("raw.parquet", "empty.parquet")]
    assert_refused(small_config(prepare={"sources": raw}), tmp_path / "run", "sources.1", "empty.parquet", "no rows")


def test_nothing_but_rejected_rows(small_config: SmallConfig, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.parquet", "lhs relation rhs", ("a", "poke", "b"), (None, "fav", "t"))
    config = small_config(prepare={"sources": [source(path)]})
    assert_refused(config, tmp_path / "run", "no edges are left", "null_id 1", "unknown_relation 1")
    path = write(
        tmp_path / "bad.parquet", "lhs relation rhs", ("c", "poke", "d" * 99), (None, "fav", "t"), ("a", "poke", "b")
    )
    example = f"for example unknown_relation: lhs 'a', relation 'poke', rhs 'b' in {path}"
    assert_refused(config, tmp_path / "run", "no edges are left; rejected: null_id 1, unknown_relation 2", example)
    path = write(tmp_path / "bad.parquet", "lhs relation rhs", ("", "fav", "t" * 99))
    assert_refused(
        config, tmp_path / "run", f"for example null_id: lhs null, relation 'fav', rhs '{'t' * 39}…' in {path}"
    )


@pytest.mark.parametrize(
    ("split", "empty"),
    [
        ({"validation": 0.0, "test": 0.01}, "test"),
        ({"validation": 0.01, "test": 0.0}, "validation"),
        ({"validation": 0.0, "test": 0.999}, "train"),
        ({"by": "time", "validation": 0.0, "test": 0.3}, "test"),
    ],
)
def test_an_empty_split(small_config: SmallConfig, tmp_path: Path, split: dict[str, Any], empty: str) -> None:
    entries = [("a", "follow", "b", 1), ("a", "fav", "t", 1), ("b", "fav", "t", 1)]
    path = write(tmp_path / "few.parquet", "lhs relation rhs time", *entries)
    config = small_config(prepare={"sources": [source(path, timestamp="time")], "split": split})
    assert_refused(config, tmp_path / "run", f"the {empty} split is empty")


def test_a_given_split_of_nothing_but_duplicates(small_config: SmallConfig, tmp_path: Path) -> None:
    small_config()
    raw = [source(str(tmp_path / "raw.parquet"), split=split) for split in ("train", "test")]
    config = small_config(prepare={"sources": raw, "split": None})
    assert_refused(config, tmp_path / "run", "the test split is empty", "duplicate 600")


def test_a_table_without_nodes(small_config: SmallConfig, tmp_path: Path) -> None:
    small_config()
    table = pq.read_table(tmp_path / "raw.parquet", filters=[("relation", "=", "follow")])
    pq.write_table(table, tmp_path / "follow.parquet")
    config = small_config(prepare={"sources": [source(str(tmp_path / "follow.parquet"))]})
    assert_refused(config, tmp_path / "run", "no edge has a node in the table tweet")


def test_memory_that_does_not_do(small_config: SmallConfig, tmp_path: Path) -> None:
    assert_refused(small_config(prepare={"memory_limit": "100KB"}), tmp_path / "run", "memory_limit")


def test_a_config_without_prepare(small_config: SmallConfig, tmp_path: Path) -> None:
    sgd = {"sgd": {"lr": 0.1}}
    tables = [{"name": name, "embedding_dim": 4, "num_embeddings": 9, "optimizer": sgd} for name in ("user", "tweet")]
    config = small_config(
        prepare=None, model={"embeddings": {"tables": tables}}, train_data={"data_root": "somewhere/*"}
    )
    assert_refused(config, tmp_path / "run", "no such section")
