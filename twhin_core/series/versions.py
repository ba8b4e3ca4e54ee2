"""The versions of a series and what is known of each."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from twhin_core import storage
from twhin_core.checkpoints.checkpoint import FINISHED
from twhin_core.errors import UserError
from twhin_core.evaluation.gates import missed, read_decision
from twhin_core.evaluation.metrics import ALL, MRR, SAMPLED, Metrics, split_of
from twhin_core.evaluation.result import read_metrics
from twhin_core.export.manifest import read_export_manifest
from twhin_core.graph.manifest import Manifest, read_manifest
from twhin_core.output import Cell, Column, Listing
from twhin_core.published import VERSIONS, Current, list_ids, read_current, root_of
from twhin_core.run import CONFIG, saved_config
from twhin_core.series.removed import read_removed


@dataclass(frozen=True)
class Version:
    """A row of `twhin versions`. What is not known yet is None."""

    id: str
    edges: int | None
    """In all splits."""
    nodes: int | None
    """In all tables."""
    mrr: float | None
    state: str
    """Whether it is published, or why not."""


def list_versions(series: str) -> list[Version]:
    """All versions, the oldest first.

    Raises:
        UserError: there is no series, or a file of a version is damaged.
    """
    ids = list_ids(series)
    if not ids:
        raise UserError(f"{series}: there are no versions here ({VERSIONS}/)")
    current = read_current(series)
    return [describe(series, version, current) for version in ids]


def describe(series: str, version: str, current: Current | None) -> Version:
    root = root_of(series, version)
    if (removed := read_removed(root)) is not None:
        return Version(**removed["version"])
    if not storage.exists(storage.join(root, CONFIG)):
        return Version(version, None, None, None, "not prepared yet")
    graph, metrics = read_manifest(root), read_metrics(root, saved_config(root).evaluation.split)
    edges = None if graph is None else sum(split.edges for split in graph.splits.values())
    nodes = None if graph is None else sum(table.nodes for table in graph.tables)
    mrr = None if metrics is None else _mrr(metrics)
    return Version(version, edges, nodes, mrr, _state(root, version, current, graph, metrics))


def as_removed(version: Version, when: str) -> dict[str, object]:
    """The content of `removed.json`."""
    return {"when": when, "version": {**asdict(version), "state": f"removed {when}"}}


def list_series(series: str, versions: list[Version]) -> Listing:
    columns = [Column("version"), Column("edges", ",d"), Column("nodes", ",d"), Column("mrr", ".4f"), Column("state")]
    rows: list[list[Cell]] = [[one.id, one.edges, one.nodes, one.mrr, one.state] for one in versions]
    return Listing("versions", f"versions of {series}", columns, rows)


def _state(root: str, version: str, current: Current | None, graph: Manifest | None, metrics: Metrics | None) -> str:
    if current is not None and current.version == version:
        return f"published {current.when}"
    published = [entry.when for entry in current.history if entry.version == version] if current else []
    if published:
        return f"was published {published[-1]}"
    return f"not published: {_missing(root, graph, metrics)}"


def _missing(root: str, graph: Manifest | None, metrics: Metrics | None) -> str:
    """The first thing that keeps a version from being published."""
    if graph is None:
        return "not prepared yet"
    if not storage.exists(storage.join(root, FINISHED)):
        return "not trained yet"
    decision = read_decision(root, "test" if metrics is None else split_of(metrics)[0])
    if decision is not None and not decision["passed"]:
        return "; ".join(missed(decision))
    return "not exported yet" if read_export_manifest(root) is None else "exported"


def _mrr(metrics: Metrics) -> float:
    figures = split_of(metrics)[1][ALL]
    return figures.get(MRR, figures.get(SAMPLED + MRR, 0.0))
