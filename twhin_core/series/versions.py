"""The versions of a series and what is known of each."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from twhin_core import storage
from twhin_core.checkpoints.checkpoint import FINISHED
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.evaluation.data_gates import decide_data
from twhin_core.evaluation.drift import NEIGHBORS
from twhin_core.evaluation.gates import missed, read_decision
from twhin_core.evaluation.metrics import ALL, DRIFT, Metrics, headline_name, split_of
from twhin_core.evaluation.result import read_metrics
from twhin_core.export.manifest import read_export_manifest
from twhin_core.graph.compared import figures_of
from twhin_core.graph.manifest import read_manifest
from twhin_core.output import Cell, Column, Listing
from twhin_core.published import Current, list_ids, read_current, root_of
from twhin_core.removed import read_removed
from twhin_core.run import CONFIG, VERSIONS, saved_config


@dataclass(frozen=True)
class Version:
    """A row of `twhin versions`. What is not known yet is None, or not there."""

    id: str
    state: str
    """Whether it is published, or why not."""
    edges: int | None = None
    """In all splits."""
    nodes: int | None = None
    """In all tables."""
    headline: str | None = None
    """The name of the metric that its config puts first."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of all relations."""
    drift: dict[str, float] = field(default_factory=dict)
    """`neighbors@k` of the table that kept the fewest."""


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
        return Version(version, "not published: not prepared yet")
    config, graph = saved_config(root), read_manifest(root)
    metrics = read_metrics(root, config.evaluation.split)
    return Version(
        version,
        _state(root, version, current, config),
        edges=None if graph is None else sum(split.edges for split in graph.splits.values()),
        nodes=None if graph is None else sum(table.nodes for table in graph.tables),
        headline=headline_name(config.evaluation),
        metrics={} if metrics is None else split_of(metrics)[1][ALL],
        drift={} if metrics is None else _drift(metrics),
    )


def missed_gates(root: str, config: Config) -> list[str]:
    """The reason of each gate, on the data or on the metrics, that the run at `root` misses."""
    graph = None if config.prepare is None else read_manifest(root)
    of_data = [] if graph is None else decide_data(config.evaluation.gates, figures_of(root, graph))
    decision = read_decision(root, config.evaluation.split)
    return missed({"gates": [*of_data, *([] if decision is None else decision["gates"])]})


def as_removed(version: Version, when: str) -> dict[str, object]:
    """The content of `removed.json`."""
    return {"when": when, "version": {**asdict(version), "state": f"removed {when}"}}


def list_series(series: str, versions: list[Version]) -> Listing:
    """With a column for the headline of the versions' configs, several if it changed, and one for the drift."""
    headlines = list(dict.fromkeys(one.headline for one in versions if one.headline is not None))
    drifts = list(dict.fromkeys(name for one in versions for name in one.drift))
    columns = [Column("version"), Column("edges", ",d"), Column("nodes", ",d")]
    columns += [*(Column(name, ".4f") for name in headlines), *(Column(name, ".3f") for name in drifts)]
    rows: list[list[Cell]] = [
        [one.id, one.edges, one.nodes, *map(one.metrics.get, headlines), *map(one.drift.get, drifts), one.state]
        for one in versions
    ]
    return Listing("versions", f"versions of {series}", [*columns, Column("state")], rows)


def _state(root: str, version: str, current: Current | None, config: Config) -> str:
    if current is not None and current.version == version:
        return f"published {current.when}"
    published = [entry.when for entry in current.history if entry.version == version] if current else []
    return f"was published {published[-1]}" if published else f"not published: {_missing(root, config)}"


def _missing(root: str, config: Config) -> str:
    """The first thing that keeps a version from being published."""
    if config.prepare is not None and read_manifest(root) is None:
        return "not prepared yet"
    if reasons := missed_gates(root, config):
        return "; ".join(reasons)
    if not storage.exists(storage.join(root, FINISHED)):
        return "not trained yet"
    return "not exported yet" if read_export_manifest(root) is None else "exported"


def _drift(metrics: Metrics) -> dict[str, float]:
    tables: list[dict[str, float]] = [of[ALL] for of in metrics.get(DRIFT, {"tables": {}})["tables"].values()]
    names = sorted({name for of in tables for name in of if name.startswith(NEIGHBORS)})
    return {name: min(of[name] for of in tables if name in of) for name in names}
