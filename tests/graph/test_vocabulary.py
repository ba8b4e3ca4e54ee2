"""Node indices, compared with hashlib and a plain sort."""

from __future__ import annotations

import hashlib

import ibis
import numpy as np

from twhin_core.config.prepare import Prepare
from twhin_core.config.sources import Source
from twhin_core.graph.connect import connect
from twhin_core.graph.vocabulary import find_nodes, number_nodes

SETTINGS = Prepare(sources=[Source(path="none", relation="none")])


def test_nodes_are_numbered_by_hash() -> None:
    rng = np.random.default_rng(0)
    count = 20_000
    sides = {
        side: [f"{prefix}{i}" for i in rng.integers(6000, size=count)] for side, prefix in (("lhs", ""), ("rhs", "é"))
    }
    tables = {
        "lhs_table": rng.choice(["user", "page"], count).tolist(),
        "rhs_table": rng.choice(["user", "tweet"], count).tolist(),
    }
    with connect(SETTINGS) as engine:
        rows = engine.keep("rows", ibis.memtable({**sides, **tables}))
        nodes = find_nodes(rows).mutate(more=ibis.literal(7))
        found = engine.keep("nodes", number_nodes(nodes)).to_pyarrow().to_pylist()

    ids: dict[str, set[str]] = {"user": set(), "page": set(), "tweet": set()}
    for side in ("lhs", "rhs"):
        for table, node in zip(tables[f"{side}_table"], sides[side], strict=True):
            ids[table].add(node)
    for table, names in ids.items():
        order = sorted(names, key=lambda node: (hashlib.md5(node.encode()).hexdigest(), node))
        expected = [{"table": table, "id": node, "more": 7, "index": i} for i, node in enumerate(order)]
        assert sorted((row for row in found if row["table"] == table), key=lambda row: row["index"]) == expected
    assert len(found) == sum(map(len, ids.values()))
