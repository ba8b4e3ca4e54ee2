"""A summary of a graph as tables."""

from __future__ import annotations

from twhin_core.graph.compared import Figure
from twhin_core.graph.manifest import SPLITS, DegreeEntry, Manifest, RelationEntry
from twhin_core.output import Cell, Column, Listing
from twhin_core.sizes import count_of

RELATIONS_SHOWN = 20
CHANGES_SHOWN = 40
DEGREES = [
    Column("nodes", ",d"), Column("mean", ",.1f"), Column("median", ",d"),
    Column("90%", ",d", keys=("p90",)), Column("99%", ",d", keys=("p99",)), Column("max", ",d"),
    Column("top 1%", ".1%", keys=("top_share",)),
]  # fmt: skip
"""See docs/prepare.md."""


def list_graph(manifest: Manifest) -> list[Listing]:
    """The splits, the tables, their content, the relations with the most edges first, weights, and rejected rows."""
    weights = [_weights(manifest)] if manifest.weighted else []
    content = [_content(manifest)] if any(entry.content for entry in manifest.tables) else []
    derived = [_derived(manifest)] if any(of.derived is not None for of in manifest.relations) else []
    negatives = [_negatives(manifest)] if manifest.negatives else []
    listings = [_splits(manifest), _tables(manifest), *content, *_relations(manifest), *negatives, *derived, *weights]
    return [*listings, _rejected(manifest)]


def _splits(manifest: Manifest) -> Listing:
    total = sum(entry.edges for entry in manifest.splits.values())
    rows: list[list[Cell]] = []
    for split in SPLITS:
        entry = manifest.splits[split]
        rows.append([split, entry.edges, entry.edges / total, entry.cold_edges, len(entry.files)])
    counts = [
        Column("edges", ",d"), Column("share", ".1%"), Column("with a cold node", ",d", keys=("cold_edges",)),
        Column("files", ",d"),
    ]  # fmt: skip
    return Listing("splits", count_of(total, "edge"), [Column("split"), *counts], rows)


def _tables(manifest: Manifest) -> Listing:
    rows = [[entry.name, *_figures(entry.degrees)] for entry in manifest.tables]
    return Listing("tables", "training degrees by table", [Column("table"), *DEGREES], rows)


def _content(manifest: Manifest) -> Listing:
    rows: list[list[Cell]] = [
        [entry.name, of.nodes, of.nodes / max(entry.nodes, 1), of.cold, of.dim, of.values, sum(of.rejected.values())]
        for entry in manifest.tables
        if (of := entry.content) is not None
    ]
    columns = [
        Column("table"), Column("nodes", ",d"), Column("share", ".1%"),
        Column("without training edges", ",d", keys=("cold",)), Column("dim", ",d"), Column("values", ",d"),
        Column("rows left out", ",d", keys=("rejected",)),
    ]  # fmt: skip
    return Listing("features", "nodes with content by table", columns, rows)


def _relations(manifest: Manifest) -> tuple[Listing, Listing]:
    largest = sorted(manifest.relations, key=_edges, reverse=True)
    edges: list[list[Cell]] = [[entry.name, entry.lhs, entry.rhs, *map(entry.edges.get, SPLITS)] for entry in largest]
    degrees = [
        [entry.name, side, table, *_figures(entry.degrees[side])]
        for entry in largest
        for side, table in (("lhs", entry.lhs), ("rhs", entry.rhs))
    ]
    counts = [Column(split, ",d") for split in SPLITS]
    return (
        Listing(
            "relations", "edges by relation", [Column("relation"), Column("lhs"), Column("rhs"), *counts], edges,
            RELATIONS_SHOWN,
        ),
        Listing(
            "relation_degrees", "training degrees by relation and side",
            [Column("relation"), Column("side"), Column("table"), *DEGREES], degrees, 2 * RELATIONS_SHOWN,
        ),
    )  # fmt: skip


def _negatives(manifest: Manifest) -> Listing:
    entries = {entry.name: entry for entry in manifest.relations}
    rows: list[list[Cell]] = [
        [entry.name, entry.negatives.relation, *map(entries[entry.negatives.relation].edges.get, SPLITS)]
        for entry in manifest.relations
        if entry.negatives is not None
    ]
    columns = [Column("relation"), Column("negatives"), *(Column(split, ",d") for split in SPLITS)]
    return Listing("negatives", "explicit negatives by relation", columns, rows, RELATIONS_SHOWN)


def _derived(manifest: Manifest) -> Listing:
    rows: list[list[Cell]] = [
        [
            entry.name, of.relation, of.side, entry.edges["train"], of.top, of.weight, of.normalize, of.min_shared,
            of.max_degree,
        ]
        for entry in manifest.relations
        if (of := entry.derived) is not None
    ]  # fmt: skip
    columns = [
        Column("relation"), Column("from", keys=("derived_from",)), Column("side"), Column("edges", ",d"),
        Column("top", ",d"), Column("weight"), Column("normalize"), Column("min_shared", ",d"),
        Column("max_degree", ",d"),
    ]  # fmt: skip
    return Listing("derived", "relations derived from training edges", columns, rows, RELATIONS_SHOWN)


def _weights(manifest: Manifest) -> Listing:
    largest = sorted(manifest.relations, key=_edges, reverse=True)
    rows: list[list[Cell]] = [
        [of.name, of.edges["train"], of.weights.mean, of.weights.max, of.weights.top_edges, of.weights.top_share]
        for of in largest
        if of.weights is not None
    ]
    columns = [
        Column("relation"), Column("edges", ",d"), Column("mean", ".4g"), Column("max", ".4g"),
        Column("heaviest 0.1%", ",d", keys=("top_edges",)), Column("their share", ".1%", keys=("top_share",)),
    ]  # fmt: skip
    return Listing("weights", "training weights by relation", columns, rows, RELATIONS_SHOWN)


def _rejected(manifest: Manifest) -> Listing:
    rows = manifest.rejected.rows
    reasons = sorted(manifest.rejected.by_reason.items(), key=lambda item: -item[1])
    listed: list[list[Cell]] = [[reason, count, count / rows] for reason, count in reasons]
    columns = [Column("reason"), Column("rows", ",d"), Column("share", ".1%")]
    return Listing("rejected", f"{count_of(rows, 'row')} rejected", columns, listed)


def list_changes(figures: dict[str, Figure]) -> Listing:
    """What changed from the version before."""
    rows: list[list[Cell]] = [[name, figure.before, figure.now] for name, figure in figures.items()]
    columns = [Column("figure"), Column("before", ",.6g"), Column("now", ",.6g")]
    return Listing("changes", "changes from the version before", columns, rows, CHANGES_SHOWN)


def _edges(entry: RelationEntry) -> int:
    return sum(entry.edges.values())


def _figures(degrees: DegreeEntry) -> list[Cell]:
    return [degrees.nodes, degrees.mean, *degrees.quantiles.values(), degrees.top_share]
