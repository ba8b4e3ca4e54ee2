"""Continues a graph with the rows of new files.

The edges of the earlier graph take part as indices, without their ids: only those that a new row repeats or contradicts
are joined with rows, and where none of the others changes, its files stay as they are.

Ibis expressions that all engines evaluate identically.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa

from twhin_core.config import Relation
from twhin_core.config.prepare import Prepare, Split
from twhin_core.graph.afresh import Made, merging
from twhin_core.graph.ages import Ages, ages_of
from twhin_core.graph.contradictions import settle
from twhin_core.graph.degrees import at, count_degrees
from twhin_core.graph.earlier import Earlier
from twhin_core.graph.edges import EDGE, collapse, encode, find_repeats, renumber
from twhin_core.graph.engine import Engine
from twhin_core.graph.near import OLD, as_rows, find_near, paired
from twhin_core.graph.reverses import in_order, mirrored, with_reverses
from twhin_core.graph.splits import with_splits
from twhin_core.graph.vocabulary import find_nodes, number_nodes

VOCABULARY = pa.schema([("index", pa.int64()), ("id", pa.string()), ("degree", pa.int64())])
EDGES = pa.schema(
    [("lhs", pa.int64()), ("rel", pa.int32()), ("rhs", pa.int64()), ("weight", pa.float32()), ("time", pa.int64())]
)
LABELS = pa.schema([("id", pa.string()), ("label", pa.string())])
EDGE_COLUMNS = (*EDGE, "weight", "time", "split", "hash")
TABLES = ("lhs_table", "rhs_table")


@dataclass(frozen=True)
class Before:
    """The earlier graph in the engine.

    `vocabulary`: table, index, id, degree; `edges`: `EDGE_COLUMNS`, position; `relations`: rel, lhs_table, rhs_table;
    `starts`: table, start: where the indices of new nodes start; `gaps`: by table, how many indices below have no node.
    `edges` lack the derived ones; `had_derived`: whether there are any.

    Of a graph that lost nodes as it was read (see `blocked.without_nodes`), `gone` are these as table, index, and
    `rejected` their edges as rejected rows.
    """

    vocabulary: ir.Table
    edges: ir.Table
    relations: ir.Table
    starts: ir.Table
    gaps: dict[str, int]
    had_derived: bool = False
    gone: ir.Table | None = None
    rejected: ir.Table | None = None

    def with_tables(self, edges: ir.Table) -> ir.Table:
        """Edges with the tables of their ends, which `edges` does without: a join of all edges takes long."""
        return edges.inner_join(self.relations, "rel")


def read_before(engine: Engine, earlier: Earlier, relations: list[Relation]) -> Before:
    """`relations` begin with those of the earlier graph."""
    tables = [
        engine.read_files(f"earlier_vocabulary_{number}", earlier.stored(entry.files), VOCABULARY).mutate(
            table=ibis.literal(entry.name)
        )
        for number, entry in enumerate(earlier.manifest.tables)
    ]
    splits = [
        engine.read_files(f"earlier_{split.replace('/', '_')}", earlier.stored(entry.files), EDGES).mutate(
            split=ibis.literal(split)
        )
        for split, entry in earlier.manifest.all_splits.items()
    ]
    edges = _union(splits)
    edges = edges.mutate(weight=edges.weight.cast("float64").fill_null(1.0), hash=ibis.literal(""))
    derived = [rel for rel, entry in enumerate(earlier.manifest.relations) if entry.derived is not None]
    if derived:
        edges = edges.filter(edges.rel.notin(derived))
    return Before(
        vocabulary=engine.view("vocabulary_before", _union(tables).select("table", "index", "id", "degree")),
        edges=engine.view("edges_before", edges.select(*EDGE_COLUMNS, "position")),
        relations=engine.keep("relations", _tables_of(relations)),
        starts=engine.keep("starts", _starts(earlier.sizes)),
        gaps={entry.name: entry.forgotten for entry in earlier.manifest.tables},
        had_derived=bool(derived),
    )


def grow(
    engine: Engine,
    valid: ir.Table,
    earlier: Earlier,
    before: Before,
    relations: list[Relation],
    settings: Prepare,
    split: Split | None,
    ages: Ages,
    with_content: ir.Table | None = None,
) -> Made:
    """Adds the edges of the rows `valid`, whose weights are decayed, to the graph `before`.

    `with_content`: as in `afresh.make`.
    """
    symmetric = any(relation.symmetric for relation in relations)
    since = ages_of(settings, earlier.manifest.newest).now
    found = find_nodes(valid)
    if with_content is not None:
        found = found.union(with_content).distinct()
    nodes = engine.keep("nodes", _number(engine, engine.keep("found", found), before))
    encoded = engine.keep("encoded", encode(valid, nodes, seed=0 if split is None else split.seed))
    expired = ages.expired(before.edges)
    old = engine.view("old", ages.aged(before.edges.filter(~expired), since))

    near = engine.keep("near", find_near(old, encoded, relations))
    again = engine.keep("again", before.with_tables(as_rows(near, earlier.root, keeps_split=split is None)))
    rows, lost_rows = settle(engine, encoded.union(again.select(*encoded.columns)), relations)
    repeats = engine.keep("repeats", find_repeats(rows))
    by_weight = merging(settings, ages.half_life is not None)
    known = again.select(*EDGE, split_before="split")
    collapsed = engine.keep("collapsed", collapse(rows.semi_join(repeats, EDGE), by_weight, known))
    chosen, alone = collapsed.filter(collapsed.reason.isnull()).drop("reason"), rows.anti_join(repeats, EDGE)
    dropped = [(of, nodes) for of in (*lost_rows, collapsed.filter(collapsed.reason.notnull()))]
    stays = chosen.union(alone) if settings.repeats in ("first", "last") else alone
    keeps = stays.filter(stays.source == OLD)
    changed = engine.keep("changed", again.select(*EDGE).anti_join(keeps, EDGE))

    new = alone.filter(alone.source != OLD).union(chosen.anti_join(keeps, EDGE))
    if settings.repeats == "sum":  # which rejects edges that are too heavy, and so may leave new nodes without any
        numbered = engine.keep("numbered", _renumbered(nodes, new, before.starts, with_content))
        new, nodes_left = renumber(new, numbered.rename(before="old_index")), numbered
    else:
        nodes_left = nodes
    new = with_splits(new, split, relations)
    if symmetric:
        new, changed = with_reverses(new, relations), engine.keep("both", mirrored(changed, relations))
    new = engine.keep("new", new.select(*EDGE_COLUMNS, *TABLES).mutate(position=ibis.literal(OLD).cast("int64")))

    left = engine.keep("left", before.edges.filter(expired))
    left_count, changed_count = (int(of.count().execute()) for of in (left, changed))
    loses_none = before.gone is None and not before.had_derived and not left_count and not changed_count
    keeps_files = loses_none and not ages.ages_all(since)
    kept, gone = old, [left] if left_count else []
    if changed_count:
        kept, gone = old.anti_join(changed, EDGE), [*gone, old.semi_join(changed, EDGE)]
    edges = engine.view("edges_now", kept.union(new.select(*kept.columns)))

    vocabulary = _with_degrees(engine, before, nodes_left, new, [before.with_tables(of) for of in gone])
    lost = vocabulary.filter((vocabulary.was > 0) & (vocabulary.degree == 0))
    vocabulary = vocabulary.drop("was")
    held_out = before.with_tables(edges.filter(edges.split != "train"))
    cold = engine.keep("cold", at(held_out, vocabulary.filter(vocabulary.degree == 0)))
    if left_count:
        pairs = before.with_tables(left)
        pairs = in_order(pairs, before.vocabulary, relations) if symmetric else pairs
        reason = pairs.time.isnull().ifelse("null_timestamp", "outside_window")
        dropped.append((pairs.mutate(reason=reason, file=ibis.literal(earlier.root)), before.vocabulary))
    new_pairs = paired(near, new) if keeps_files else None
    return Made(vocabulary, edges, cold, dropped, new, keeps_files, new_pairs, _counts(lost), before.gaps)


def earlier_labels(engine: Engine, earlier: Earlier) -> list[ir.Table]:
    """The labels of the earlier graph, as rows (relation, lhs, rhs) from ids to labels, with the table as relation."""
    return [
        engine.read_files(f"earlier_labels_{number}", earlier.stored(entry.labels), LABELS).select(
            relation=ibis.literal(entry.name), lhs="id", rhs="label"
        )
        for number, entry in enumerate(earlier.manifest.tables)
        if entry.labels
    ]


def _number(engine: Engine, found: ir.Table, before: Before) -> ir.Table:
    """The nodes `found` (table, id) with their indices: those of the vocabulary, or the next ones."""
    known = engine.keep("known", before.vocabulary.semi_join(found, ["table", "id"]).select("table", "id", "index"))
    return known.union(_next_numbers(found.anti_join(known, ["table", "id"]), before.starts))


def _next_numbers(nodes: ir.Table, starts: ir.Table) -> ir.Table:
    numbered = number_nodes(nodes).left_join(starts, "table")
    index = numbered["index"] + numbered["start"].fill_null(0)
    return numbered.select(*nodes.columns, index=index)


def _renumbered(nodes: ir.Table, edges: ir.Table, starts: ir.Table, with_content: ir.Table | None) -> ir.Table:
    """The nodes (table, id, index, old_index) that are known, have edges or are among those `with_content`."""
    nodes = nodes.left_join(starts, "table").select("table", "id", "start", old_index="index")
    is_new = nodes.old_index >= nodes["start"].fill_null(0)
    ends = count_degrees(edges.mutate(split=ibis.literal("train"))).select("table", old_index="index")
    if with_content is not None:
        ends = ends.union(nodes.semi_join(with_content, ["table", "id"]).select("table", "old_index")).distinct()
    left = nodes.filter(is_new).semi_join(ends, ["table", "old_index"]).select("table", "id", "old_index")
    same = nodes.filter(~is_new).select("table", "id", "old_index", index="old_index")
    return same.union(_next_numbers(left, starts).select(*same.columns))


def _with_degrees(engine: Engine, before: Before, nodes: ir.Table, new: ir.Table, gone: list[ir.Table]) -> ir.Table:
    """All nodes (table, index, id, degree, was). The degrees before plus those of `new` edges less those of `gone`."""
    change = count_degrees(new).select("table", "index", change="degree")
    if gone:
        less = count_degrees(_union(gone))
        both = change.union(less.select("table", "index", change=-less.degree))
        change = both.group_by("table", "index").agg(change=both.change.sum().cast("int64"))
    added = nodes.left_join(before.starts, "table")
    added = added.filter(added["index"] >= added["start"].fill_null(0))
    all_ = before.vocabulary.select("table", "index", "id", was="degree").union(
        added.select("table", "index", "id", was=ibis.literal(0).cast("int64"))
    )
    joined = all_.left_join(change, ["table", "index"])
    return engine.keep(
        "vocabulary",
        joined.select("table", "index", "id", "was", degree=joined.was + joined.change.fill_null(0)),
    )


def _starts(sizes: dict[str, int]) -> ir.Table:
    return ibis.memtable(
        {"table": list(sizes), "start": np.array(list(sizes.values()), np.int64)},
        schema={"table": "string", "start": "int64"},
    )


def _tables_of(relations: Sequence[Relation]) -> ir.Table:
    return ibis.memtable(
        {
            "rel": np.arange(len(relations), dtype=np.int32),
            "lhs_table": [relation.lhs for relation in relations],
            "rhs_table": [relation.rhs for relation in relations],
        },
        schema={"rel": "int32", "lhs_table": "string", "rhs_table": "string"},
    )


def _counts(nodes: ir.Table) -> dict[str, int]:
    rows = nodes.group_by("table").agg(count=nodes.count()).to_pyarrow().to_pylist()
    return {row["table"]: row["count"] for row in rows}


def _union(tables: list[ir.Table]) -> ir.Table:
    return functools.reduce(lambda one, other: one.union(other), tables)
