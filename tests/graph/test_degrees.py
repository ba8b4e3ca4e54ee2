"""Degrees and the removal of low-degree nodes, computed by hand."""

from __future__ import annotations

from typing import Any

import ibis
import pytest

from twhin_core.config.prepare import Prepare
from twhin_core.config.sources import Source
from twhin_core.graph.connect import connect
from twhin_core.graph.degrees import at, count_degrees, find_low_degree_nodes, without

SETTINGS = Prepare(sources=[Source(path="none", relation="none")])


def edges(*pairs: tuple[int, int], rhs_table: str = "user", split: str = "train") -> Any:
    lhs, rhs = zip(*pairs, strict=True)
    same = {"lhs_table": ["user"] * len(pairs), "rhs_table": [rhs_table] * len(pairs), "split": [split] * len(pairs)}
    return ibis.memtable({"lhs": lhs, "rhs": rhs, **same})


def test_a_self_loop_counts_twice_and_held_out_edges_do_not_count() -> None:
    with connect(SETTINGS) as engine:
        table = engine.keep("edges", edges((0, 0), (0, 1)).union(edges((0, 1), rhs_table="tweet", split="test")))
        found = {tuple(row.values()) for row in count_degrees(table).to_pyarrow().to_pylist()}
    assert found == {("user", 0, 4, 3), ("user", 1, 1, 1), ("tweet", 1, 1, 0)}


# A triangle 0 1 2 with a tail 2 - 3 - 4 - 5 - 6: with a minimum of 2, the tail goes from its end, a node a round.
TAILED = [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 5), (5, 6)]


@pytest.mark.parametrize(("rounds", "gone"), [(1, {6}), (2, {5, 6}), (3, {4, 5, 6}), (None, {3, 4, 5, 6})])
def test_nodes_with_too_few_edges_are_removed_until_none_is_left(rounds: int | None, gone: set[int]) -> None:
    with connect(SETTINGS) as engine:
        table = engine.keep("edges", edges(*TAILED))
        weak = find_low_degree_nodes(engine, table, {"user": 2}, rounds)
        left = {(row["lhs"], row["rhs"]) for row in without(table, weak).to_pyarrow().to_pylist()}
        other = {(row["lhs"], row["rhs"]) for row in at(table, weak).to_pyarrow().to_pylist()}
    assert left == {pair for pair in TAILED if not gone & set(pair)}
    assert other == set(TAILED) - left


def test_a_minimum_applies_to_its_table() -> None:
    with connect(SETTINGS) as engine:
        table = engine.keep("edges", edges((0, 1), rhs_table="tweet"))
        assert find_low_degree_nodes(engine, table, {"page": 2}, None).to_pyarrow().num_rows == 0
        weak = find_low_degree_nodes(engine, table, {"tweet": 2, "user": 1}, 1).to_pyarrow().to_pylist()
        assert weak == [{"table": "tweet", "index": 1}]
        assert without(table, ibis.memtable(weak)).to_pyarrow().num_rows == 0
