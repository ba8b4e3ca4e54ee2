"""Writes the graph of a version again, without the nodes that its series has forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt

from twhin_core import storage
from twhin_core.checksum import crc32c
from twhin_core.config import Config, Relation
from twhin_core.graph.afresh import Made
from twhin_core.graph.blocked import without_names, without_nodes
from twhin_core.graph.connect import connect
from twhin_core.graph.content_before import earlier_content
from twhin_core.graph.degrees import at
from twhin_core.graph.derived import with_derived
from twhin_core.graph.earlier import Earlier
from twhin_core.graph.engine import Engine
from twhin_core.graph.forgotten import Blocked
from twhin_core.graph.grow import Before, read_before
from twhin_core.graph.manifest import MANIFEST, Manifest, find_manifest, relations_of
from twhin_core.graph.plan import Graph, find_all_labels
from twhin_core.graph.write import REJECTED_SCHEMA, count_graph, write_graph

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Forgot:
    """A graph without nodes that it had."""

    manifest: Manifest
    """The graph is complete once the caller publishes it."""
    rows: Mapping[str, Ints]
    """By table, the indices of the nodes, ascending."""
    edges: int
    """How many they had, over all splits, without derived ones."""


def forget_nodes(config: Config, source: str, root: str, blocked: Blocked) -> Forgot:
    """Writes the graph of the run at `source` under `root`, without the blocked nodes and their edges.

    All other nodes keep their indices and all other edges their splits and their order; only derived edges are made
    anew, since they may tell of a blocked node that both of their ends shared. Rejected rows that name a
    blocked node stay, without ids and with the reason `forgotten`; each removed edge becomes one.

    Raises:
        UserError: the run at `source` has no graph, or its files are damaged.
    """
    settings = config.prepare
    assert settings is not None
    manifest = find_manifest(source)
    assert manifest.shared_by is None, "or the graph of another run would be copied"
    earlier = Earlier(source, source, manifest, crc32c([storage.read_bytes(storage.join(source, MANIFEST))]))
    relations = relations_of(config, manifest)
    storage.remove(storage.join(root, "graph"))
    with connect(settings) as engine:
        before = read_before(engine, earlier, relations)
        before = without_nodes(engine, before, blocked, relations, source)
        rejected = without_names(engine, _read_rejected(engine, earlier, relations), blocked)
        rejected = rejected.select("lhs", "relation", "rhs", "reason", "source")
        made = _made(engine, before)
        if settings.derive:
            seed = 0 if settings.split is None else settings.split.seed
            made = with_derived(engine, made, relations, settings.derive, seed)
        graph = Graph(
            tables=[entry.name for entry in manifest.tables],
            relations=relations,
            weighted=manifest.weighted,
            timed=settings.repeats in ("first", "last") and any(of.timestamp is not None for of in settings.sources),
            newest=manifest.newest,
            raw_rows=manifest.raw_rows,
            made=made,
            rejected=rejected if before.rejected is None else rejected.union(before.rejected),
            labels=find_all_labels(engine, [], before.vocabulary, earlier),
            derive=settings.derive,
            content=earlier_content(engine, earlier, before.vocabulary),
        )
        counts = count_graph(graph, earlier)
        written = write_graph(engine, graph, counts, root, earlier)
        edges = _edges(manifest) - _edges(written)
        rows = {} if before.gone is None else _rows(before.gone)
    return Forgot(_as_before(written, manifest, blocked), rows, edges)


def _made(engine: Engine, before: Before) -> Made:
    held_out = before.with_tables(before.edges.filter(before.edges.split != "train"))
    cold = engine.keep("cold", at(held_out, before.vocabulary.filter(before.vocabulary.degree == 0)))
    return Made(before.vocabulary, before.edges, cold, [], new=before.edges.limit(0), gaps=before.gaps)


def _read_rejected(engine: Engine, earlier: Earlier, relations: list[Relation]) -> ir.Table:
    """The rejected rows with the tables of their ends, which are null if the relation is unknown."""
    rows = engine.read_files("earlier_rejected", earlier.stored(earlier.manifest.rejected.files), REJECTED_SCHEMA)
    known = ibis.memtable(
        {
            "relation": [relation.name for relation in relations],
            "lhs_table": [relation.lhs for relation in relations],
            "rhs_table": [relation.rhs for relation in relations],
        },
        schema={"relation": "string", "lhs_table": "string", "rhs_table": "string"},
    )
    columns = [*REJECTED_SCHEMA.names, "lhs_table", "rhs_table"]
    return engine.keep("rejected_before", rows.left_join(known, "relation").select(*columns))


def _edges(manifest: Manifest) -> int:
    """Those that were made of rows."""
    return sum(sum(entry.edges.values()) for entry in manifest.relations if entry.derived is None)


def _rows(nodes: ir.Table) -> dict[str, Ints]:
    found = nodes.order_by("table", "index").to_pyarrow()
    tables, index = np.array(found["table"].to_pylist(), object), found["index"].to_numpy()
    return {table: index[tables == table] for table in np.unique(tables).tolist()}


def _as_before(written: Manifest, before: Manifest, blocked: Blocked) -> Manifest:
    """The manifest with what the version took and what the next one will ask for."""
    old = {entry.name: entry for entry in before.tables}
    tables = [
        entry.model_copy(update={name: getattr(old[entry.name], name) for name in ("added", "lost", "id_kinds")})
        for entry in written.tables
    ]
    edges_before = written.rejected.edges_before + before.rejected.edges_before
    kept = ("raw_files", "rules", "times", "previous")
    return written.model_copy(
        update={name: getattr(before, name) for name in kept}
        | {
            "tables": tables,
            "rejected": written.rejected.model_copy(update={"edges_before": edges_before}),
            "forgotten": blocked.records,
        }
    )
