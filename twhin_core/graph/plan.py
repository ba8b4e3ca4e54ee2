"""The plan of prepare: all steps from the source rows to the tables of the graph, in order.

Each `keep` evaluates the expressions before it. The rows stay in the engine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from twhin_core.config import Config, Relation
from twhin_core.config.prepare import Split
from twhin_core.errors import UserError
from twhin_core.graph.degrees import at, count_degrees, find_low_degree_nodes, without
from twhin_core.graph.edge_weights import normalized
from twhin_core.graph.edges import EDGE, collapse, encode, find_repeats, rejected_rows, renumber
from twhin_core.graph.engine import Engine
from twhin_core.graph.raw_files import RawSource
from twhin_core.graph.reverses import with_reverses
from twhin_core.graph.rows import find_relations, with_reasons
from twhin_core.graph.splits import with_splits
from twhin_core.graph.vocabulary import find_labels, find_nodes, number_nodes
from twhin_core.progress import log

DROPPED = ("lhs_table", "lhs", "rel", "rhs_table", "rhs", "file", "reason")


@dataclass(frozen=True)
class Graph:
    """The graph as tables of the engine.

    `vocabulary`: table, index, id, degree; `edges`: lhs, rel, rhs, weight, split, hash; `cold`: the held-out edges with
    a node without training edges; `rejected`: as `edges.rejected_rows` returns it; `labels`: index, id, label of the
    nodes with one, by table; `tables` in the order of the config, `relations` in the order of their ids.
    """

    tables: list[str]
    relations: list[Relation]
    weighted: bool
    vocabulary: ir.Table
    edges: ir.Table
    cold: ir.Table
    rejected: ir.Table
    labels: dict[str, ir.Table]


def plan(
    engine: Engine,
    config: Config,
    sources: list[RawSource],
    labels: list[RawSource],
    split: Split | None,
    check_relations: Callable[[list[str]], None],
) -> Graph:
    """Builds the graph from the sources.

    Args:
        split: how to hold out edges; None if the sources specify their splits.
        check_relations: called with the names of the relations as soon as they are known; may raise.
    """
    settings = config.prepare
    assert settings is not None
    raw = engine.read(sources)
    relations = find_relations(raw, config.model.relations)
    check_relations([relation.name for relation in relations])
    _check_names("prepare.sampling", settings.sampling, relations)
    _check_names("prepare.split.relations", (split and split.relations) or [], relations)
    rows = engine.keep("rows", with_reasons(raw, relations, settings, split))
    _check_rows(rows, sources)

    valid = rows.filter(rows.reason.isnull())
    weights = {position: raw.source.weight for position, raw in enumerate(sources) if raw.source.weight}
    valid = normalized(valid, weights)
    nodes = engine.keep("nodes", number_nodes(find_nodes(valid)))
    encoded = engine.keep("encoded", encode(valid, nodes, seed=0 if split is None else split.seed))
    repeats = engine.keep("repeats", find_repeats(encoded))
    collapsed = engine.keep("collapsed", collapse(encoded.semi_join(repeats, EDGE), settings.repeats))
    edges = encoded.anti_join(repeats, EDGE).union(collapsed.filter(collapsed.reason.isnull()).drop("reason"))
    dropped = [collapsed.filter(collapsed.reason.notnull())]

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
    if settings.min_degree or settings.cold_nodes == "drop" or settings.repeats == "sum":  # these may remove nodes
        vocabulary = engine.keep("vocabulary", number_nodes(vocabulary.rename(before="index")))
        edges = engine.keep("renumbered", renumber(edges, vocabulary))
    vocabulary = engine.keep("vocabulary", vocabulary)
    return Graph(
        tables=[table.name for table in config.model.embeddings.tables],
        relations=relations,
        weighted=settings.repeats in ("count", "sum") or any(raw.source.weight is not None for raw in sources),
        vocabulary=vocabulary,
        edges=edges.mutate(weight=edges.weight.cast("float32")),
        cold=cold,
        rejected=rejected_rows(
            rows.filter(rows.reason.notnull()),
            functools.reduce(lambda one, other: one.union(other), [table.select(*DROPPED) for table in dropped]),
            nodes,
            relations,
        ),
        labels=_labels(engine, labels, vocabulary),
    )


def _labels(engine: Engine, sources: list[RawSource], vocabulary: ir.Table) -> dict[str, ir.Table]:
    if not sources:
        return {}
    found = engine.keep("labels", find_labels(vocabulary, engine.read(sources)))
    tables = {raw.source.relation for raw in sources if raw.source.relation is not None}
    return {table: found.filter(found.table == table) for table in tables}


def _check_names(key: str, given: Iterable[str], relations: list[Relation]) -> None:
    names = {relation.name for relation in relations}
    for name in given:
        if name not in names:
            raise UserError(f"{key}: no row has the relation {name!r}")


def _check_rows(rows: ir.Table, sources: list[RawSource]) -> None:
    by_source = rows.group_by("source").agg(count=rows.count()).to_pyarrow()
    counts = dict(zip(by_source["source"].to_pylist(), by_source["count"].to_pylist(), strict=True))
    for position, raw in enumerate(sources):
        if not counts.get(position):
            raise UserError(f"prepare.sources.{position}: {raw.source.path} has no rows")
    files = sum(len(raw.files) for raw in sources)
    log.info("prepare: read %s rows from %d %s", f"{sum(counts.values()):,}", files, "file" if files == 1 else "files")
