"""Writes a planned graph to files, and creates the manifest that lists them."""

from __future__ import annotations

from dataclasses import dataclass

import ibis.expr.types as ir
import pyarrow as pa

from twhin_core import __version__, storage
from twhin_core.graph.content import CATEGORIES_SCHEMA, stored_fields
from twhin_core.graph.content_entry import ContentEntry
from twhin_core.graph.copies import copy_file
from twhin_core.graph.earlier import Earlier
from twhin_core.graph.engine import Engine
from twhin_core.graph.manifest import (
    NEGATIVES,
    SPLITS,
    Manifest,
    RejectedEntry,
    RelationEntry,
    SplitEntry,
    TableEntry,
)
from twhin_core.graph.plan import Graph
from twhin_core.graph.reverses import count_reversed
from twhin_core.graph.statistics import relation_degrees, table_degrees
from twhin_core.graph.weights import relation_weights
from twhin_core.parquet import FileEntry, part_path

VOCABULARY_SCHEMA = pa.schema([("index", pa.int64()), ("id", pa.string()), ("degree", pa.int64())])
EDGES_SCHEMA = pa.schema([("lhs", pa.int64()), ("rel", pa.int32()), ("rhs", pa.int64())])
WEIGHT_FIELD = pa.field("weight", pa.float32())
TIME_FIELD = pa.field("time", pa.int64())
LABELS_SCHEMA = pa.schema([("index", pa.int64()), ("id", pa.string()), ("label", pa.string())])
REJECTED_SCHEMA = pa.schema([(name, pa.string()) for name in ("source", "lhs", "relation", "rhs", "reason")])


@dataclass(frozen=True)
class Counts:
    """Indices by table, edges by split and relation (in the order of ids), cold edges by split, rejects by reason.

    The splits are those of edges and of explicit negatives. Cold edges have a node without training edges.
    `edges_before`: the rejected ones that are edges of the graph before.
    """

    nodes: dict[str, int]
    edges: dict[str, list[int]]
    cold: dict[str, int]
    rejected: dict[str, int]
    edges_before: int


def count_graph(graph: Graph, earlier: Earlier | None) -> Counts:
    vocabulary, edges, rejected = graph.made.vocabulary, graph.made.edges, graph.rejected
    nodes = _counts(vocabulary.group_by("table").agg(count=vocabulary.count()))
    by_reason = _counts(rejected.group_by("reason").agg(count=rejected.count()))
    splits = [*SPLITS, *(NEGATIVES + split for split in SPLITS)]
    by_relation = {split: [0] * len(graph.relations) for split in splits}
    for row in edges.group_by("split", "rel").agg(count=edges.count()).to_pyarrow().to_pylist():
        by_relation[row["split"]][row["rel"]] = row["count"]
    cold = _counts(graph.made.cold.group_by("split").agg(count=graph.made.cold.count()))
    return Counts(
        nodes={table: nodes.get(table, 0) + graph.made.gaps.get(table, 0) for table in graph.tables},
        edges=by_relation,
        cold={split: cold.get(split, 0) for split in splits},
        rejected=by_reason,
        edges_before=int(rejected.filter(rejected.source == earlier.root).count().execute()) if earlier else 0,
    )


def _counts(groups: ir.Table) -> dict[str, int]:
    """The rows of a table (name, count), sorted by name."""
    return dict(sorted(tuple(row.values()) for row in groups.to_pyarrow().to_pylist()))


def write_graph(engine: Engine, graph: Graph, counts: Counts, root: str, earlier: Earlier | None) -> Manifest:
    """Writes everything but the manifest, which it returns. Publishing that completes the graph."""
    degrees = table_degrees(graph)
    tables = [
        TableEntry(
            name=table,
            num_embeddings=counts.nodes[table],
            degrees=degrees[table],
            files=engine.write(
                graph.made.vocabulary.filter(graph.made.vocabulary.table == table),
                ["index"],
                VOCABULARY_SCHEMA,
                root,
                f"graph/vocab/{table}",
            ),
            labels=_write_labels(engine, graph, table, root) if table in graph.labels else [],
            content=_write_content(engine, graph, table, root) if table in graph.content else None,
            forgotten=graph.made.gaps.get(table, 0),
            added=_added(table, counts.nodes[table], earlier),
            lost=graph.made.lost.get(table, 0),
        )
        for table in graph.tables
    ]
    splits = _write_splits(engine, graph, counts, root, earlier)
    has_negatives = any(relation.negatives is not None for relation in graph.relations)
    negatives = _write_splits(engine, graph, counts, root, earlier, NEGATIVES) if has_negatives else {}
    rejected_files = engine.write(graph.rejected, REJECTED_SCHEMA.names, REJECTED_SCHEMA, root, "graph/rejected")
    reversed_ = _count_reversed(graph, earlier)
    return Manifest(
        version=__version__,
        weighted=graph.weighted,
        newest=graph.newest,
        tables=tables,
        relations=[
            RelationEntry(
                **relation.model_dump(),
                edges={split: counts.edges[split][rel] + counts.edges[NEGATIVES + split][rel] for split in SPLITS},
                degrees=degrees_of,
                reversed=_in_order(reversed_.get(rel, {})),
                weights=weights_of,
                derived=graph.derive.get(relation.name),
            )
            for rel, (relation, degrees_of, weights_of) in enumerate(
                zip(graph.relations, relation_degrees(graph), relation_weights(graph), strict=True)
            )
        ],
        splits=splits,
        negatives=negatives,
        raw_rows=graph.raw_rows,
        rejected=RejectedEntry(
            rows=sum(counts.rejected.values()),
            edges_before=counts.edges_before,
            by_reason=counts.rejected,
            files=rejected_files,
        ),
    )


def _count_reversed(graph: Graph, earlier: Earlier | None) -> dict[int, dict[str, int]]:
    """As `count_reversed` of all edges: where none of the earlier graph changed, its counts and those of new pairs."""
    if earlier is None or graph.made.paired is None:
        return count_reversed(graph.made.edges, graph.relations)
    found = count_reversed(graph.made.paired, graph.relations)
    for rel, entry in enumerate(earlier.manifest.relations):
        for split, count in entry.reversed.items():
            of_relation = found.setdefault(rel, {})
            of_relation[split] = of_relation.get(split, 0) + count
    return found


def _in_order(by_split: dict[str, int]) -> dict[str, int]:
    """Engines return groups in any order, but two manifests of the same graph are the same bytes."""
    return {split: by_split[split] for split in SPLITS if split in by_split}


def _write_labels(engine: Engine, graph: Graph, table: str, root: str) -> list[FileEntry]:
    return engine.write(graph.labels[table], ["index"], LABELS_SCHEMA, root, f"graph/labels/{table}")


def _write_content(engine: Engine, graph: Graph, table: str, root: str) -> ContentEntry:
    content, vocabulary = graph.content[table], graph.made.vocabulary
    entry, names = content.entry, list[FileEntry]()
    nodes = vocabulary.filter(vocabulary.table == table).inner_join(content.rows, "id")
    fields = stored_fields(entry, pa.list_(pa.float32(), entry.dim))
    nodes = nodes.select("index", "degree", *(field.name for field in fields))
    schema = pa.schema([("index", pa.int64()), ("degree", pa.int64()), *fields])
    files = engine.write(nodes, ["index"], schema, root, f"graph/features/{table}")
    if content.values is not None:
        values = content.values.select("code", "value", "nodes", category="name")
        names = engine.write(values, ["code"], CATEGORIES_SCHEMA, root, f"graph/categories/{table}")
    cold = int(nodes.filter(nodes.degree == 0).count().execute())
    return entry.model_copy(
        update={"files": files, "names": names, "nodes": sum(file.rows for file in files), "cold": cold}
    )


def _added(table: str, nodes: int, earlier: Earlier | None) -> list[int]:
    entry = None if earlier is None else earlier.table(table)
    if entry is None:
        return []
    return [*entry.sorted_runs, nodes - entry.num_embeddings]


def _write_splits(
    engine: Engine, graph: Graph, counts: Counts, root: str, earlier: Earlier | None, kind: str = ""
) -> dict[str, SplitEntry]:
    """Writes the splits of edges, or with `NEGATIVES` those of explicit negatives."""
    return {
        split: SplitEntry(
            edges=sum(counts.edges[kind + split]),
            cold_edges=counts.cold[kind + split],
            files=_write_split(engine, graph, kind + split, root, earlier),
        )
        for split in SPLITS
    }


def _write_split(engine: Engine, graph: Graph, split: str, root: str, earlier: Earlier | None) -> list[FileEntry]:
    """Writes the edges in the order of their hash, so that any contiguous range is a random sample.

    Those of an earlier graph come after the new ones, in the order that they have there.
    """
    columns = [*EDGES_SCHEMA, *([WEIGHT_FIELD] if graph.weighted else []), *([TIME_FIELD] if graph.timed else [])]
    folder = f"graph/edges/{split}"

    def write(edges: ir.Table, order: list[str]) -> list[FileEntry]:
        edges = edges.filter(edges.split == split).mutate(weight=edges.weight.cast("float32"))
        return engine.write(edges, [*order, "hash", "lhs", "rel", "rhs"], pa.schema(columns), root, folder)

    made = graph.made
    if earlier is None or made.new is None:
        return write(made.edges, [])
    if not made.keeps_files:
        return write(made.edges, ["position"])
    new, before = write(made.new, []), earlier.manifest.all_splits.get(split)
    if before is None:
        return new
    if not any(entry.rows for entry in new):
        storage.remove(storage.join(root, folder))
        new = []
    return new + _keep_files(earlier, before, root, folder, len(new))


def _keep_files(earlier: Earlier, split: SplitEntry, root: str, folder: str, first: int) -> list[FileEntry]:
    """Copies the files of a split of the earlier graph, after the `first` files in the folder."""
    kept = []
    for number, entry in enumerate(split.files, first):
        path = part_path(folder, number)
        copy_file(storage.join(earlier.root, entry.path), storage.join(root, path))
        kept.append(entry.model_copy(update={"path": path}))
    return kept
