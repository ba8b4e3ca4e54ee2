"""Which answers in the report are edges of the graph, and of which split."""

from __future__ import annotations

import numpy as np

from twhin_core.config import Config
from twhin_core.data.edges import Edges
from twhin_core.data.splits import has_split, open_split
from twhin_core.evaluation.known_answers import QueryIndex
from twhin_core.graph.manifest import SPLITS
from twhin_core.ranking.queries import held_out
from twhin_core.report.neighbors import Node
from twhin_core.schema import Schema

MOST_EDGES = 20_000_000
"""All edges are read, some five million a second; of a larger graph, none."""

Known = dict[tuple[str, int, int], str]
"""The split of an edge (relation, lhs row, rhs row)."""


def collect(config: Config, root: str, schema: Schema, tables: list[tuple[str, list[Node]]]) -> Known | None:
    """The edges among the answers of `tables`, as `Neighbors` has them; None if the graph is too large to read.

    Raises:
        UserError: edges cannot be read.
    """
    asked = [
        (schema.names.index(near.of), node.row, row)
        for _, nodes in tables
        for node in nodes
        for near in node.lists
        if near.of
        for row in near.rows
    ]
    splits = {split: open_split(config, root, schema, split) for split in SPLITS if has_split(config, root, split)}
    if sum(map(len, splits.values())) > MOST_EDGES:
        return None
    if not asked:
        return {}
    rel, lhs, rhs = np.array(asked, np.int64).T
    held = held_out(Edges(lhs, rel, rhs, np.ones(len(rel), np.float32)), "rhs")
    index, wanted = QueryIndex(held, max(schema.tables.values())), set(asked)
    known: Known = {}
    for split, files in splits.items():
        for edges in files.chunks():
            query, answer = index.find(edges)
            first = held.first[query]
            for edge in zip(held.rel[first].tolist(), held.node[first].tolist(), answer.tolist(), strict=True):
                if edge in wanted:
                    known.setdefault((schema.names[edge[0]], *edge[1:]), split)
    return known
