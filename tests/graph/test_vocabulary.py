"""Numbers of nodes against hashlib and a plain sort."""

from __future__ import annotations

import hashlib
from collections import Counter

import ibis
import numpy as np

from twhin_core.config_prepare import Prepare, Source
from twhin_core.graph.engine import connect
from twhin_core.graph.vocabulary import number_nodes

SETTINGS = Prepare(sources=[Source(path="none", relation="none")])


def test_nodes_are_numbered_by_hash_and_counted_by_train_edges() -> None:
    rng = np.random.default_rng(0)
    count = 20_000
    sides = {
        side: [f"{prefix}{i}" for i in rng.integers(6000, size=count)] for side, prefix in (("lhs", ""), ("rhs", "é"))
    }
    tables = {
        "lhs_table": rng.choice(["user", "page"], count).tolist(),
        "rhs_table": rng.choice(["user", "tweet"], count).tolist(),
    }
    split = rng.choice(["train", "validation", "test"], count).tolist()
    with connect(SETTINGS) as engine:
        edges = engine.keep("edges", ibis.memtable({**sides, **tables, "split": split}))
        found = engine.keep("nodes", number_nodes(edges)).to_pyarrow().to_pylist()

    degrees: dict[str, Counter[str]] = {"user": Counter(), "page": Counter(), "tweet": Counter()}
    for side in ("lhs", "rhs"):
        for table, node, of in zip(tables[f"{side}_table"], sides[side], split, strict=True):
            degrees[table][node] += of == "train"
    for table, degree in degrees.items():
        order = sorted(degree, key=lambda node: (hashlib.md5(node.encode()).hexdigest(), node))
        expected = [{"table": table, "index": i, "id": node, "degree": degree[node]} for i, node in enumerate(order)]
        assert sorted((row for row in found if row["table"] == table), key=lambda row: row["index"]) == expected
    assert len(found) == sum(map(len, degrees.values()))


def test_a_loop_has_two_ends() -> None:
    columns = {"lhs": ["a"], "lhs_table": ["user"], "rhs": ["a"], "rhs_table": ["user"], "split": ["train"]}
    with connect(SETTINGS) as engine:
        nodes = engine.keep("nodes", number_nodes(engine.keep("edges", ibis.memtable(columns))))
        assert nodes.to_pyarrow().to_pylist() == [{"table": "user", "index": 0, "id": "a", "degree": 2}]
