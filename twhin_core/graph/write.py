"""Writes a planned graph to files, and creates the manifest that lists them."""

from __future__ import annotations

from dataclasses import dataclass

import ibis.expr.types as ir
import pyarrow as pa

from twhin_core import __version__
from twhin_core.graph.engine import Engine
from twhin_core.graph.manifest import SPLITS, Manifest, RejectedEntry, RelationEntry, SplitEntry, TableEntry
from twhin_core.graph.plan import Graph
from twhin_core.graph.reverses import count_reversed
from twhin_core.graph.statistics import relation_degrees, table_degrees
from twhin_core.graph.weights import relation_weights
from twhin_core.parquet import FileEntry

VOCABULARY_SCHEMA = pa.schema([("index", pa.int64()), ("id", pa.string()), ("degree", pa.int64())])
EDGES_SCHEMA = pa.schema([("lhs", pa.int64()), ("rel", pa.int32()), ("rhs", pa.int64())])
WEIGHT_FIELD = pa.field("weight", pa.float32())
LABELS_SCHEMA = pa.schema([("index", pa.int64()), ("id", pa.string()), ("label", pa.string())])
REJECTED_SCHEMA = pa.schema([(name, pa.string()) for name in ("source", "lhs", "relation", "rhs", "reason")])


@dataclass(frozen=True)
class Counts:
    """Nodes by table, edges by split and relation (in the order of ids), cold edges by split, rejected rows by reason.

    Cold edges have a node without training edges.
    """

    nodes: dict[str, int]
    edges: dict[str, list[int]]
    cold: dict[str, int]
    rejected: dict[str, int]


def count_graph(graph: Graph) -> Counts:
    vocabulary, edges, rejected = graph.vocabulary, graph.edges, graph.rejected
    nodes = _counts(vocabulary.group_by("table").agg(count=vocabulary.count()))
    by_reason = _counts(rejected.group_by("reason").agg(count=rejected.count()))
    by_relation = {split: [0] * len(graph.relations) for split in SPLITS}
    for row in edges.group_by("split", "rel").agg(count=edges.count()).to_pyarrow().to_pylist():
        by_relation[row["split"]][row["rel"]] = row["count"]
    cold = _counts(graph.cold.group_by("split").agg(count=graph.cold.count()))
    return Counts(
        nodes={table: nodes.get(table, 0) for table in graph.tables},
        edges=by_relation,
        cold={split: cold.get(split, 0) for split in SPLITS},
        rejected=by_reason,
    )


def _counts(groups: ir.Table) -> dict[str, int]:
    """The rows of a table (name, count), sorted by name."""
    return dict(sorted(tuple(row.values()) for row in groups.to_pyarrow().to_pylist()))


def write_graph(engine: Engine, graph: Graph, counts: Counts, root: str) -> Manifest:
    """Writes everything but the manifest, which it returns. Publishing that completes the graph."""
    degrees = table_degrees(graph)
    tables = [
        TableEntry(
            name=table,
            num_embeddings=counts.nodes[table],
            degrees=degrees[table],
            files=engine.write(
                graph.vocabulary.filter(graph.vocabulary.table == table),
                ["index"],
                VOCABULARY_SCHEMA,
                root,
                f"graph/vocab/{table}",
            ),
            labels=_write_labels(engine, graph, table, root) if table in graph.labels else [],
        )
        for table in graph.tables
    ]
    splits = {
        split: SplitEntry(
            edges=sum(counts.edges[split]),
            cold_edges=counts.cold[split],
            files=_write_split(engine, graph, split, root),
        )
        for split in SPLITS
    }
    rejected_files = engine.write(graph.rejected, REJECTED_SCHEMA.names, REJECTED_SCHEMA, root, "graph/rejected")
    reversed_ = count_reversed(graph.edges, graph.relations)
    return Manifest(
        version=__version__,
        weighted=graph.weighted,
        tables=tables,
        relations=[
            RelationEntry(
                **relation.model_dump(),
                edges={split: counts.edges[split][rel] for split in SPLITS},
                degrees=degrees_of,
                reversed=reversed_.get(rel, {}),
                weights=weights_of,
            )
            for rel, (relation, degrees_of, weights_of) in enumerate(
                zip(graph.relations, relation_degrees(graph), relation_weights(graph), strict=True)
            )
        ],
        splits=splits,
        rejected=RejectedEntry(rows=sum(counts.rejected.values()), by_reason=counts.rejected, files=rejected_files),
    )


def _write_labels(engine: Engine, graph: Graph, table: str, root: str) -> list[FileEntry]:
    return engine.write(graph.labels[table], ["index"], LABELS_SCHEMA, root, f"graph/labels/{table}")


def _write_split(engine: Engine, graph: Graph, split: str, root: str) -> list[FileEntry]:
    """Writes the edges in the order of their hash, so that any contiguous range is a random sample."""
    schema = EDGES_SCHEMA.append(WEIGHT_FIELD) if graph.weighted else EDGES_SCHEMA
    edges = graph.edges.filter(graph.edges.split == split)
    return engine.write(edges, ["hash", "lhs", "rel", "rhs"], schema, root, f"graph/edges/{split}")
