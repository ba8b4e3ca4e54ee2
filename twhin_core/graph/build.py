"""Builds `graph/` from raw interactions: the vocabulary, the edges of each split and the rejected rows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import ibis.expr.types as ir

from twhin_core import storage
from twhin_core.config import Config, Relation
from twhin_core.config.prepare import Prepare, Split
from twhin_core.config.sources import Source
from twhin_core.dependents import note_use
from twhin_core.errors import UserError
from twhin_core.graph.changes import entries_of
from twhin_core.graph.connect import connect
from twhin_core.graph.content_before import find_content
from twhin_core.graph.content_rows import check_content
from twhin_core.graph.earlier import Earlier, check_new, find_earlier, without_taken
from twhin_core.graph.forgotten import Blocked, blocked_at
from twhin_core.graph.manifest import NEGATIVES, SPLITS, Manifest
from twhin_core.graph.plan import Graph, plan
from twhin_core.graph.raw_files import RawSource, check_sources, id_kinds
from twhin_core.graph.reverses import describe_reversed
from twhin_core.graph.rules import rules_of
from twhin_core.graph.weights import warn_of_skew
from twhin_core.graph.write import Counts, count_graph, write_graph
from twhin_core.progress import log
from twhin_core.schema import Schema, check_prior


class Checks(NamedTuple):
    """What later stages refuse, as functions that raise UserError."""

    relations: Callable[[list[str]], None]
    """By the names of the relations, before the graph is planned."""
    sizes: Callable[[Schema, dict[str, int]], None]
    """By the nodes of each table and the edges of each split, before anything is written."""


def build_graph(config: Config, sources: list[Source], root: str, checks: Checks) -> Manifest:
    """Writes the vocabulary, the edges and the rejected rows of `sources` under `<root>/graph/`.

    The result only depends on the rows of the sources, not on the order of files or the number of threads. Every row
    becomes an edge or is kept in `graph/rejected/` with a reason; docs/prepare.md lists the reasons.

    Returns:
        The manifest. The graph is complete once the caller publishes it.

    Raises:
        UserError: a source cannot be read or is empty, a relation is not in the config, a vocabulary exceeds its
            table's `num_embeddings`, a table or split is empty, or as `checks`.
    """
    settings = config.prepare
    assert settings is not None
    _check_relations(sources, config.model.relations)
    earlier = find_earlier(config)
    raw = _find_raw(settings, sources, earlier)
    labels = check_sources([of.as_source(position) for position, of in enumerate(settings.labels)])
    features = find_content([of.as_source(position) for position, of in enumerate(settings.features)], earlier)
    check_content(features)
    split = _split(settings, raw)
    if earlier is not None:
        check_new(raw, features, earlier)
        earlier.check_fits(config, split, raw)
        note_use(earlier.run, root)
    storage.remove(storage.join(root, "graph"))  # an interrupted run may have left files
    blocked = blocked_at(root) or (blocked_at(settings.previous) if settings.previous is not None else None)
    with connect(settings) as engine:
        graph = plan(engine, config, raw, labels, features, split, earlier, checks.relations, blocked)
        counts = count_graph(graph, earlier)
        _log(counts)
        _check_counts(config, raw, split, counts, graph)
        checks.sizes(Schema(counts.nodes, graph.relations), {split: sum(counts.edges[split]) for split in SPLITS})
        manifest = write_graph(engine, graph, counts, root, earlier)
    manifest = _completed(manifest, config, raw, labels + features, split, earlier, blocked)
    for line in describe_reversed(manifest):
        log.warning("prepare: %s", line)
    warn_of_skew(manifest.relations)
    return manifest


def _find_raw(settings: Prepare, sources: list[Source], earlier: Earlier | None) -> list[RawSource]:
    """The files of the sources, less those that the earlier graph has taken."""
    if earlier is None:
        return check_sources(sources, settings.time_window)
    choose = partial(without_taken, earlier=earlier, keep_changed=settings.changed_files == "keep")
    return check_sources(sources, settings.time_window, choose)


def _completed(
    manifest: Manifest,
    config: Config,
    raw: list[RawSource],
    others: list[RawSource],
    split: Split | None,
    earlier: Earlier | None,
    blocked: Blocked | None,
) -> Manifest:
    """With what the next version will ask for."""
    assert config.prepare is not None
    kind = next((file.time for of in raw for file in of.files if file.time is not None), None)
    for entry in manifest.tables:
        before = earlier and earlier.table(entry.name)
        kinds = id_kinds(entry.name, raw, config.model.relations) | set(before.id_kinds if before else [])
        entry.id_kinds = sorted(kinds)
    return manifest.model_copy(
        update={
            "raw_files": entries_of(raw + others),
            "rules": rules_of(config.prepare, split),
            "times": kind or (earlier and earlier.manifest.times),
            "previous": earlier and earlier.entry,
            "forgotten": [] if blocked is None else blocked.records,
        }
    )


def _split(settings: Prepare, sources: list[RawSource]) -> Split | None:
    """How to split the edges, or None if the sources specify their splits."""
    given = any(raw.source.split is not None for raw in sources)
    return None if given else settings.split or Split()


def _check_relations(sources: list[Source], relations: list[Relation]) -> None:
    names = {relation.name for relation in relations}
    for position, source in enumerate(sources):
        if source.relation is not None and source.relation not in names:
            raise UserError(
                f"prepare.sources.{position}.relation: {source.relation!r} is not in model.relations; there are "
                f"{', '.join(sorted(names))}"
            )


def _check_counts(config: Config, sources: list[RawSource], split: Split | None, counts: Counts, graph: Graph) -> None:
    edges = {name: sum(counts.edges[name]) for name in SPLITS}
    if not any(edges.values()):
        example = _example(graph.rejected, max(counts.rejected, key=counts.rejected.__getitem__))
        raise UserError(f"prepare: no edges are left; rejected: {_listed(counts.rejected)}; for example {example}")
    expected = {"train"} | {raw.source.split for raw in sources}
    if split is not None:
        expected |= {name for name in ("validation", "test") if getattr(split, name) > 0}
    for name in SPLITS:
        if name in expected and not edges[name]:
            raise UserError(
                f"prepare: the {name} split is empty; edges: {_listed(edges)}; rejected: {_listed(counts.rejected)}"
            )
    _check_negatives(counts, graph)
    if config.train_data.data_root is None:
        names = [relation.name for relation in graph.relations]
        check_prior(config.model, dict(zip(names, counts.edges["train"], strict=True)))
    for table in config.model.embeddings.tables:
        rows = counts.nodes[table.name]
        if rows == 0:
            raise UserError(f"model.embeddings.tables: no edge has a node in the table {table.name}")
        if table.num_embeddings is not None and table.num_embeddings < rows:
            raise UserError(
                f"model.embeddings.tables: {table.name} has num_embeddings {table.num_embeddings} but its vocabulary "
                f"has {rows}"
            )


def _check_negatives(counts: Counts, graph: Graph) -> None:
    rels = {relation.name: rel for rel, relation in enumerate(graph.relations)}
    for relation in graph.relations:
        negatives = relation.negatives
        if negatives is not None and not counts.edges[NEGATIVES + "train"][rels[negatives.relation]]:
            raise UserError(
                f"model.relations: the negatives of {relation.name}, {negatives.relation}, have no edges in train; "
                f"rejected: {_listed(counts.rejected)}"
            )


def _example(rejected: ir.Table, reason: str) -> str:
    """The first row that was rejected for `reason`."""
    rows = rejected.filter(rejected.reason == reason).order_by("source", "lhs", "relation", "rhs").limit(1)
    (row,) = rows.to_pyarrow().to_pylist()
    ids = ", ".join(f"{name} {_shortened(row[name])}" for name in ("lhs", "relation", "rhs"))
    return f"{reason}: {ids} in {row['source']}"


def _shortened(value: str | None) -> str:
    return "null" if value is None else repr(value if len(value) <= 40 else f"{value[:39]}…")


def _log(counts: Counts) -> None:
    log.info("prepare: edges: %s", _listed({name: sum(counts.edges[name]) for name in SPLITS}))
    negatives = {name: sum(counts.edges[NEGATIVES + name]) for name in SPLITS}
    if any(negatives.values()):
        log.info("prepare: explicit negatives: %s", _listed(negatives))
    log.info("prepare: rejected: %s", _listed(counts.rejected))
    log.info("prepare: vocabulary: %s", _listed(counts.nodes))


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"
