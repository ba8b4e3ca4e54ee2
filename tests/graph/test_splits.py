"""The latest edges, compared with a sort, and the random order of edges."""

from __future__ import annotations

from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SmallConfig
from tests.graph.reading import ids, rows
from twhin_core.config.prepare import Prepare, Split
from twhin_core.config.sources import Source
from twhin_core.graph.connect import connect
from twhin_core.graph.splits import with_splits
from twhin_core.stages.prepare import prepare

SETTINGS = Prepare(sources=[Source(path="none", relation="none")])


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (5, 8), (-(10**6), 10**6), (1_700_000_000, 1_702_000_000), (-(2**62), 2**62)]
)
def test_the_latest_edges_are_found_exactly(low: int, high: int) -> None:
    rng = np.random.default_rng(3)
    times = rng.integers(low, high, 400)
    split = Split(by="time", validation=0.25, test=0.1)
    with connect(SETTINGS) as engine:
        edges = engine.keep("edges", ibis.memtable({"time": times, "split": ["train"] * len(times)}))
        found = with_splits(edges, split, []).to_pyarrow()
    for time, of in zip(found["time"].to_pylist(), found["split"].to_pylist(), strict=True):
        no_earlier = int((times >= time).sum())
        assert of == ("test" if no_earlier <= 40 else "validation" if no_earlier <= 140 else "train")


def test_the_order_of_edges_is_random(small_config: SmallConfig, tmp_path: Path) -> None:
    """Raw rows are sorted by lhs, relation and time, and nearly by rhs; an edge reveals nothing about the next one."""
    count = 20_000
    number = np.arange(count)
    lhs, rhs = [f"{i // 100}" for i in number], [f"{i // 100 + i % 100}" for i in number]
    relation = np.where(number < count // 2, "follow", "fav")
    # The weight carries the time through, which edges do not keep.
    table = pa.table({"lhs": lhs, "relation": relation, "rhs": rhs, "weight": number + 1.0})
    pq.write_table(table, tmp_path / "sorted.parquet")
    source = {"path": str(tmp_path / "sorted.parquet"), "relation_column": "relation", "weight": "weight"}
    config = small_config(prepare={"sources": [source], "split": {"validation": 0.0, "test": 0.0}})
    manifest = prepare(config, str(tmp_path / "run"))
    names = {entry.name: [int(name) for name in ids(tmp_path / "run", entry.name)] for entry in manifest.tables}
    columns: dict[str, list[float]] = {"lhs": [], "rhs": [], "rel": [], "time": [], "lhs id": [], "rhs id": []}
    for row in rows(tmp_path / "run/graph/edges/train"):
        ends = manifest.relations[row["rel"]]
        columns["lhs"].append(row["lhs"])
        columns["rhs"].append(row["rhs"])
        columns["rel"].append(row["rel"])
        columns["time"].append(row["weight"])
        columns["lhs id"].append(names[ends.lhs][row["lhs"]])
        columns["rhs id"].append(names[ends.rhs][row["rhs"]])
    edges = len(columns["lhs"])
    bound = 4 / edges**0.5  # the correlation of independent columns has a standard deviation of 1 / √n
    assert edges == count
    for first in columns.values():
        assert abs(np.corrcoef(first, np.arange(edges))[0, 1]) < bound  # nor does its place
        for second in columns.values():
            assert abs(np.corrcoef(first[:-1], second[1:])[0, 1]) < bound
