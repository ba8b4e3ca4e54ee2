"""Edges prepared for the reference are read unchanged, and mistakes in them are reported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import SmallConfig
from twhin_core import storage
from twhin_core.config import Config, Relation
from twhin_core.config import file as config_file
from twhin_core.data import files
from twhin_core.data.edges import Edges
from twhin_core.data.frequencies import end
from twhin_core.data.splits import open_split
from twhin_core.errors import UserError
from twhin_core.graph.manifest import read_schema
from twhin_core.schema import SIDES, Schema
from twhin_core.stages.prepare import prepare

SCHEMA = Schema(
    {"user": 5, "tweet": 3},
    [Relation(name="follow", lhs="user", rhs="user"), Relation(name="fav", lhs="user", rhs="tweet")],
)


class CountedRelations(list[Relation]):
    """Counts how often relations are looked at."""

    looks = 0

    def __getitem__(self, key: Any) -> Any:
        self.looks += 1
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[Relation]:
        self.looks += len(self)
        return super().__iter__()


def config_of(pattern: str, **data: Any) -> Config:
    table = {"embedding_dim": 4, "optimizer": {"sgd": {"lr": 0.1}}}
    tree = {
        "model": {
            "embeddings": {"tables": [{"name": n, "num_embeddings": s, **table} for n, s in SCHEMA.tables.items()]},
            "relations": [relation.model_dump() for relation in SCHEMA.relations],
            "translation_optimizer": {"sgd": {"lr": 0.1}},
        },
        "train_data": {"data_root": pattern, "per_replica_batch_size": 2, "global_negatives": 1, **data},
    }
    return config_file.validate(Config, tree, "test")


def read(folder: Path, **data: Any) -> Edges:
    return open_split(config_of(f"{folder}/*", **data), "unused", SCHEMA, "train").all()


def write(path: Path, kind: pa.DataType | None = None, **columns: list[Any]) -> Path:
    default = {"lhs": [0, 1], "rel": [0, 1], "rhs": [4, 2]}
    pq.write_table(pa.table({name: pa.array(values, kind) for name, values in {**default, **columns}.items()}), path)
    return path


def test_files_are_read_in_name_order_with_any_integer_type(tmp_path: Path) -> None:
    write(tmp_path / "b.parquet", pa.int32(), lhs=[3, 4])
    write(tmp_path / "a.parquet", pa.int64(), lhs=[1, 2])
    edges = read(tmp_path)
    assert (list(edges.lhs), list(edges.rel), list(edges.rhs)) == ([1, 2, 3, 4], [0, 1, 0, 1], [4, 2, 4, 2])
    assert list(edges.weight) == [1, 1, 1, 1]


@pytest.mark.parametrize(("limit", "offset", "expected"), [(3, 0, [0, 1, 2]), (3, 2, [2, 3]), (None, 1, [1, 2, 3])])
def test_limit_and_offset_apply_across_files(
    tmp_path: Path, limit: int | None, offset: int, expected: list[int]
) -> None:
    write(tmp_path / "a.parquet", lhs=[0, 1])
    write(tmp_path / "b.parquet", lhs=[2, 3])
    assert list(read(tmp_path, limit=limit, offset=offset).lhs) == expected


def test_weights_are_read_if_present(tmp_path: Path) -> None:
    table = {"lhs": [0], "rel": [0], "rhs": [1], "weight": pa.array([2.5], pa.float32())}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    assert list(read(tmp_path).weight) == [2.5]


def test_no_file_matches(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/\*: no file matches"):
        read(tmp_path)


def test_a_file_without_lhs(tmp_path: Path) -> None:
    pq.write_table(pa.table({"src": [1], "rel": [0], "rhs": [0]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: has no column lhs; it has src, rel, rhs"):
        read(tmp_path)


def test_a_truncated_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a\.parquet: not a complete Parquet file"):
        read(tmp_path)


def test_a_file_damaged_in_its_middle(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", lhs=[0, 1])
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(56)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.parquet: not a complete Parquet file"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"lhs": [0, 5]}, r"row 1: lhs 5 is outside table user of 5 rows"),
        ({"lhs": [-1, 0]}, r"row 0: lhs -1 is outside table user of 5 rows"),
        ({"rhs": [4, 3]}, r"row 1: rhs 3 is outside table tweet of 3 rows"),
        ({"rel": [0, 2]}, r"row 1: rel 2 is outside the 2 relations"),
        ({"rhs": [4, None]}, r"column rhs has nulls, the first in row 1"),
        ({"weight": [1, 0]}, r"row 1: weight is not a number above 0"),
    ],
)
def test_an_invalid_edge(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    write(tmp_path / "a.parquet", **columns)
    with pytest.raises(UserError, match=message):
        read(tmp_path)


@pytest.mark.parametrize("statistics", [True, False])
def test_the_row_of_a_bad_edge_is_counted_in_its_file(tmp_path: Path, statistics: bool) -> None:
    """With statistics, it is found from the footer; without, when it is read."""
    write(tmp_path / "a.parquet")
    lhs = np.zeros(50, np.int64)
    lhs[47] = 5
    table = pa.table({"lhs": lhs, "rel": np.zeros(50, np.int32), "rhs": np.zeros(50, np.int32)})
    pq.write_table(table, tmp_path / "b.parquet", row_group_size=20, write_statistics=statistics)
    config = config_of(f"{tmp_path}/*")
    with pytest.raises(UserError, match=r"b\.parquet: row 47: lhs 5 is outside table user"):
        read(tmp_path)
    if statistics:
        with pytest.raises(UserError, match=r"b\.parquet: row 47"):
            open_split(config, "unused", SCHEMA, "train")
    else:
        assert len(open_split(config, "unused", SCHEMA, "train")) == 52
    assert len(read(tmp_path, limit=49)) == 49, "what is beyond the limit is nobody's"


def test_only_the_files_that_the_limit_reaches_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        write(tmp_path / f"{name}.parquet")
    (tmp_path / "d.parquet").write_text("not Parquet")
    monkeypatch.setattr(files, "FOOTERS_PER_BATCH", 1)
    assert len(read(tmp_path, limit=5)) == 5
    with pytest.raises(UserError, match=r"d\.parquet: not a complete Parquet file"):
        read(tmp_path)


def test_the_digest_tells_data_sets_apart(tmp_path: Path) -> None:
    def digest(**data: Any) -> str:
        return open_split(config_of(f"{tmp_path}/*", **data), "unused", SCHEMA, "train").digest

    write(tmp_path / "a.parquet")
    first = digest()
    assert digest() == first
    others = {digest(limit=1), digest(offset=1)}
    write(tmp_path / "a.parquet", rhs=[3, 2])
    others.add(digest())
    write(tmp_path / "b.parquet")
    others.add(digest())
    assert len(others | {first}) == 5


def test_a_weight_that_is_not_a_number(tmp_path: Path) -> None:
    pq.write_table(pa.table({"lhs": [0], "rel": [0], "rhs": [0], "weight": ["much"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="column weight is string, not numbers"):
        read(tmp_path)


def test_a_column_that_is_not_integers(tmp_path: Path) -> None:
    pq.write_table(pa.table({"lhs": ["a"], "rel": [0], "rhs": [0]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="column lhs is string, not integers"):
        read(tmp_path)


def test_an_empty_split(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="the train split has no edges"):
        read(tmp_path, offset=2)


def test_a_prepared_split_that_lost_a_file(small_config: SmallConfig, tmp_path: Path) -> None:
    config, root = small_config(), tmp_path / "run"
    prepare(config, str(root))
    (part,) = (root / "graph/edges/train").glob("*.parquet")
    edges = pq.read_table(part)
    pq.write_table(edges.slice(0, 100), part)
    with pytest.raises(UserError, match=f"^{part}: its end does not match its checksum"):
        open_split(config, str(root), read_schema(config, str(root)), "train")
    manifest = storage.read_json(f"{root}/graph/manifest.json")
    for split in manifest["splits"].values():
        for file in split["files"]:
            file["footer"] = None  # as in version 0.1
    storage.write_json(f"{root}/graph/manifest.json", manifest)
    with pytest.raises(UserError, match=f"graph/edges/train: 100 edges, but {len(edges)} in the manifest"):
        open_split(config, str(root), read_schema(config, str(root)), "train")


def test_row_groups_and_batches_cost_nothing_per_relation(tmp_path: Path) -> None:
    relations = CountedRelations([Relation(name=f"r{number}", lhs="a", rhs="b") for number in range(1000)])
    rng, schema = np.random.default_rng(0), Schema({"a": 50, "b": 60}, relations)
    columns = {
        "lhs": rng.integers(50, size=4000),
        "rel": rng.integers(1000, size=4000),
        "rhs": rng.integers(60, size=4000),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=10)
    looks = []
    for count in (10, 4000):
        before = relations.looks
        edges = files.EdgeFiles([str(tmp_path / "a.parquet")], schema, limit=count).all()
        looks.append(relations.looks - before)
        assert edges.rel.tolist() == columns["rel"][:count].tolist()
    assert looks[0] <= 2 * len(relations)  # once for each side
    assert looks[1] == 0


@settings(max_examples=50)
@given(st.lists(st.tuples(*[st.sampled_from(["a", "b", "c"])] * 2), min_size=1, max_size=20))
def test_a_schema_knows_the_tables_of_its_relations(pairs: list[tuple[str, str]]) -> None:
    sizes = {"c": 7, "a": 5, "b": 9}
    relations = [Relation(name=str(rel), lhs=lhs, rhs=rhs) for rel, (lhs, rhs) in enumerate(pairs)]
    schema = Schema(sizes, relations)
    for position, side in enumerate(SIDES):
        tables = [pair[position] for pair in pairs]
        assert schema.table_numbers[side].tolist() == [list("cab").index(table) for table in tables]
        assert schema.rows[side].tolist() == [sizes[table] for table in tables]
        assert schema.most_rows[side] == max(sizes[table] for table in tables)
        ends = end(np.arange(len(pairs)), side)
        assert schema.ends[ends].tolist() == schema.table_numbers[side].tolist()
