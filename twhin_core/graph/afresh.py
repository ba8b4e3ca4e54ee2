"""Makes a graph of nothing but the rows of the sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import ibis
import ibis.expr.types as ir

from twhin_core.config import Relation
from twhin_core.config.prepare import Prepare, Split
from twhin_core.graph.contradictions import settle
from twhin_core.graph.degrees import at, count_degrees, find_low_degree_nodes, without
from twhin_core.graph.edges import EDGE, collapse, encode, find_repeats, renumber
from twhin_core.graph.engine import Engine
from twhin_core.graph.reverses import with_reverses
from twhin_core.graph.splits import with_splits
from twhin_core.graph.vocabulary import find_nodes, number_nodes


@dataclass(frozen=True)
class Made:
    """The nodes and edges of a graph.

    `vocabulary`: table, index, id, degree; `edges`: lhs, rel, rhs, weight, time, split, hash; `cold`: the held-out
    edges with a node without training edges; `dropped`: encoded rows with a reason, and the nodes (table, index, id)
    that they are at.

    Of a graph that continues an earlier one: `new`: the edges that its files do not hold, as `edges`; `keeps_files`:
    whether `edges` are just those of the files and the new ones; if so, `paired`: lhs, rel, rhs and split of the new
    edges and of those whose reverse is new; `lost`: by table, the nodes without training edges
    that had some; `gaps`: by table, how many indices have no node, because it was forgotten. The edges also have their
    `position`: -1 for those in `new`.
    """

    vocabulary: ir.Table
    edges: ir.Table
    cold: ir.Table
    dropped: list[tuple[ir.Table, ir.Table]]
    new: ir.Table | None = None
    keeps_files: bool = False
    paired: ir.Table | None = None
    lost: Mapping[str, int] = field(default_factory=dict)
    gaps: Mapping[str, int] = field(default_factory=dict)


def make(
    engine: Engine,
    valid: ir.Table,
    relations: list[Relation],
    settings: Prepare,
    split: Split | None,
    by_age: bool,
    with_content: ir.Table | None = None,
) -> Made:
    """Builds the graph from rows that passed the row checks.

    Args:
        by_age: whether the weights of rows that do not come from a column depend on the age.
        with_content: nodes (table, id) that the graph has even without an edge.
    """
    found = find_nodes(valid)
    if with_content is not None:
        found = found.union(with_content).distinct()
    nodes = engine.keep("nodes", number_nodes(found))
    encoded = engine.keep("encoded", encode(valid, nodes, seed=0 if split is None else split.seed))
    encoded, dropped = settle(engine, encoded, relations)
    repeats = engine.keep("repeats", find_repeats(encoded))
    by_weight = merging(settings, by_age)
    collapsed = engine.keep("collapsed", collapse(encoded.semi_join(repeats, EDGE), by_weight))
    edges = encoded.anti_join(repeats, EDGE).union(collapsed.filter(collapsed.reason.isnull()).drop("reason"))
    dropped.append(collapsed.filter(collapsed.reason.notnull()))

    if settings.min_degree:
        low_degree = find_low_degree_nodes(engine, edges, settings.min_degree, settings.min_degree_rounds)
        dropped.append(at(edges, low_degree).mutate(reason=ibis.literal("low_degree")))
        edges = without(edges, low_degree)

    edges = engine.keep("split", with_splits(edges, split, relations))
    degrees = engine.keep("degrees", count_degrees(edges))
    cold_nodes = degrees.filter(degrees.degree == 0)
    cold = engine.keep("cold", at(edges.filter(edges.split != "train"), cold_nodes))
    if settings.cold_nodes == "drop":
        dropped.append(cold.mutate(reason=ibis.literal("cold_node")))
        edges, degrees = without(edges, cold_nodes), degrees.filter(degrees.degree > 0)
        cold = cold.limit(0)
    if any(relation.symmetric for relation in relations):  # a pair was one edge until here
        edges, cold = (with_reverses(of, relations) for of in (edges, cold))
        edges = engine.keep("reverses", edges)
        degrees = engine.keep("all_degrees", count_degrees(edges))

    vocabulary = nodes.inner_join(degrees, ["table", "index"]).select("table", "index", "id", "degree")
    if with_content is not None:
        others = nodes.semi_join(with_content, ["table", "id"]).anti_join(degrees, ["table", "index"])
        others = others.mutate(degree=ibis.literal(0, type="int64"))
        vocabulary = vocabulary.union(others.select("table", "index", "id", "degree"))
    if settings.min_degree or settings.cold_nodes == "drop" or settings.repeats == "sum":  # these may remove nodes
        vocabulary = engine.keep("vocabulary", number_nodes(vocabulary.rename(before="index")))
        edges = engine.keep("renumbered", renumber(edges, vocabulary))
    vocabulary = engine.keep("vocabulary", vocabulary)
    return Made(vocabulary, edges, cold, [(table, nodes) for table in dropped])


def merging(settings: Prepare, by_age: bool) -> Literal["first", "last", "count", "sum"]:
    """What becomes of the weights of repeats: where they depend on the age, a count is their sum."""
    return "sum" if settings.repeats == "count" and by_age else settings.repeats
