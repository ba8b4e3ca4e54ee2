"""Derived relations: edges between nodes of one table that share neighbors in the training edges of another relation.

Ibis expressions that all engines evaluate identically: sums are of integers, and what remains in floating point is
divisions and square roots, which IEEE 754 defines to the last bit. Ties are broken by hashes of the ids. So the edges
depend on ids and training edges alone, not on the numbers of nodes, the order of rows or held-out edges.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

import ibis
import ibis.expr.types as ir
import numpy as np

from twhin_core.config import Relation
from twhin_core.config.derive import Derive
from twhin_core.errors import UserError
from twhin_core.graph.afresh import Made
from twhin_core.graph.engine import Engine
from twhin_core.graph.hashes import edge_hash, node_key
from twhin_core.progress import log
from twhin_core.schema import OTHER
from twhin_core.sizes import count_of

UNITS = 2**32
"""What a shared neighbor of weight 1 counts."""
COLUMNS = ("lhs", "rel", "rhs", "weight", "time", "split", "hash")


def check_rows(rows: ir.Table, derive: Mapping[str, Derive]) -> None:
    """Raises UserError if a row has the name of a derived relation."""
    named = rows.filter(rows.relation.isin(list(derive))).select("relation", "file").limit(1).to_pyarrow().to_pylist()
    for row in named:
        raise UserError(f"prepare.derive.{row['relation']}: {row['file']} has rows of this relation; rename it")


def with_derived(
    engine: Engine, made: Made, relations: list[Relation], derive: Mapping[str, Derive], seed: int
) -> Made:
    """Adds the edges of the derived relations to the train split of a graph without them.

    The degrees in the vocabulary stay as they are. `seed`: of the order of edges.
    """
    rels = {relation.name: rel for rel, relation in enumerate(relations)}
    bases = [relations[rels[settings.relation]] for settings in derive.values()]
    keys = engine.keep("derived_keys", _keys(made.vocabulary, {table for of in bases for table in (of.lhs, of.rhs)}))
    parts = [made.edges]
    for name, settings in derive.items():
        rel, base = rels[name], rels[settings.relation]
        train = made.edges.filter((made.edges.split == "train") & (made.edges.rel == base))
        ends = train.select(node=settings.side, shared=OTHER[settings.side])
        nodes, shared = (
            keys.filter(keys.table == getattr(relations[base], side)).select("index", "key")
            for side in (settings.side, OTHER[settings.side])
        )
        nearest = _nearest(engine, ends, nodes, shared, settings)
        if relations[rel].symmetric:
            reverse = nearest.select("similarity", node="other", other="node")
            nearest = nearest.union(reverse.select(*nearest.columns), distinct=True)
        edges = engine.keep(f"derived_{rel}", _as_edges(nearest, made.vocabulary, relations[rel], rel, seed))
        log.info("prepare: derived %s of %s", count_of(int(edges.count().execute()), "edge"), name)
        parts.append(edges)
    columns = [*COLUMNS, *(["position"] if "position" in made.edges.columns else [])]
    all_ = functools.reduce(lambda one, other: one.union(other), [part.select(*columns) for part in parts])
    return replace(made, edges=engine.view("with_derived", all_), keeps_files=False, paired=None)


def _keys(vocabulary: ir.Table, tables: set[str]) -> ir.Table:
    """The nodes of the tables: table, index and key."""
    nodes = vocabulary.filter(vocabulary.table.isin(sorted(tables)))
    return nodes.select("table", "index", key=node_key(nodes.id))


def _nearest(engine: Engine, ends: ir.Table, nodes: ir.Table, shared: ir.Table, settings: Derive) -> ir.Table:
    """The most similar nodes of each node, as node, other, similarity: float64.

    `ends`: node, shared: every edge of the relation; `nodes`, `shared`: index and key of the nodes at either end.
    """
    degrees = engine.keep("derived_degrees", ends.group_by("shared").agg(degree=ends.count()))
    ends = _capped(ends, degrees, nodes, shared, settings.max_degree)
    ends = ends.inner_join(_units(degrees, settings), "shared").select("shared", "node", "units")
    ends = engine.keep("derived_ends", ends)
    others = ends.select("shared", other="node")
    both = ends.inner_join(others, [ends["shared"] == others["shared"], ends.node < others.other])
    pairs = both.group_by("node", "other").agg(units=both.units.sum().cast("int64"), count=both.count())
    pairs = engine.keep("derived_pairs", pairs.filter(pairs["count"] >= settings.min_shared).drop("count"))
    reverse = pairs.select("units", node="other", other="node")
    pairs = pairs.union(reverse.select(*pairs.columns))

    own = ends.group_by("node").agg(degree=ends.count())
    own = own.inner_join(nodes, own.node == nodes["index"]).select("node", "degree", "key")
    own = engine.keep("derived_nodes", own)
    pairs = pairs.inner_join(own, "node")
    theirs = own.select(other="node", other_degree="degree", other_key="key")
    pairs = pairs.inner_join(theirs, "other")
    similarity = pairs.units.cast("float64") / float(UNITS)
    if settings.normalize == "cosine":
        similarity = similarity / (pairs.degree * pairs.other_degree).cast("float64").sqrt()
    pairs = pairs.select("node", "other", similarity=similarity, tie=pairs.key ^ pairs.other_key)
    order = [pairs.similarity.desc(), pairs.tie, pairs.other]
    pairs = pairs.mutate(place=ibis.row_number().over(group_by=pairs.node, order_by=order))
    return pairs.filter(pairs.place < settings.top).select("node", "other", "similarity")


def _capped(ends: ir.Table, degrees: ir.Table, nodes: ir.Table, shared: ir.Table, most: int) -> ir.Table:
    """At most `most` edges of each shared neighbor, drawn by hash."""
    hubs = degrees.filter(degrees.degree > most).select("shared")
    of_hubs = ends.semi_join(hubs, "shared")
    of_hubs = of_hubs.inner_join(nodes.select(node="index", key="key"), "node")
    of_hubs = of_hubs.inner_join(shared.select(shared="index", shared_key="key"), "shared")
    of_hubs = of_hubs.select("node", "shared", draw=of_hubs.key ^ of_hubs.shared_key)
    order = [of_hubs.draw, of_hubs.node]
    of_hubs = of_hubs.mutate(place=ibis.row_number().over(group_by=of_hubs["shared"], order_by=order))
    drawn = of_hubs.filter(of_hubs.place < most).select("node", "shared")
    return ends.anti_join(hubs, "shared").select("node", "shared").union(drawn)


def _units(degrees: ir.Table, settings: Derive) -> ir.Table:
    """What each shared neighbor counts, as shared, units: int64."""
    if settings.weight == "one":
        return degrees.select("shared", units=ibis.literal(UNITS).cast("int64"))
    # Computed here, not in the engines, whose logarithms differ: a few rows, since few degrees differ.
    found = degrees.select("degree").distinct().to_pyarrow()["degree"].to_numpy().astype(np.int64)
    counts = ibis.memtable(
        {"degree": found, "units": np.rint(UNITS / np.log1p(found)).astype(np.int64)},
        schema={"degree": "int64", "units": "int64"},
    )
    return degrees.inner_join(counts, "degree").select("shared", "units")


def _as_edges(nearest: ir.Table, vocabulary: ir.Table, relation: Relation, rel: int, seed: int) -> ir.Table:
    nodes = vocabulary.filter(vocabulary.table == relation.lhs)
    named = nearest.inner_join(nodes.select(node="index", lhs="id"), "node")
    named = named.inner_join(nodes.select(other="index", rhs="id"), "other")
    named = named.mutate(relation=ibis.literal(relation.name))
    return named.select(
        rel=ibis.literal(rel).cast("int32"),
        lhs="node",
        rhs="other",
        weight="similarity",
        time=ibis.null("int64"),
        split=ibis.literal("train"),
        hash=edge_hash(named, seed, "order"),
        position=ibis.literal(-1).cast("int64"),
    )
