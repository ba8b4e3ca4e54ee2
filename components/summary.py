"""Summaries of what a stage did, as Markdown and as flat figures for KFP's Metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from twhin_core import storage
from twhin_core.checkpoints.checkpoint import FINISHED
from twhin_core.checksum import unseal_lines
from twhin_core.config import Config
from twhin_core.evaluation.list_metrics import LISTS, figures_of_lists
from twhin_core.evaluation.metrics import ALL, Metrics
from twhin_core.evaluation.probe_names import PROBE, VECTORS, figures_of_probe
from twhin_core.export.manifest import Aligned, ExportManifest, VersionMap
from twhin_core.graph.manifest import SPLITS, Manifest
from twhin_core.recommend.manifest import ListsManifest
from twhin_core.report.exports import MAP_COLUMNS, map_rows
from twhin_core.schema import SIDES
from twhin_core.sizes import count_of

Figures = dict[str, float]
TRAINED = ("loss", "validation_loss", "edges_per_s", "data_wait")
"""Figures of `training/metrics.jsonl` whose last values are reported."""

COMPARED_BY = {
    "dot": "the dot product",
    "cos": "the cosine",
    "l2": "the Euclidean distance",
    "squared_l2": "the squared Euclidean distance",
}


def graph_figures(manifest: Manifest) -> Figures:
    tables = {f"nodes.{entry.name}": entry.nodes for entry in manifest.tables}
    splits = {f"edges.{split}": manifest.splits[split].edges for split in SPLITS}
    return {**tables, **splits, "rejected_rows": manifest.rejected.rows}


def graph_text(manifest: Manifest) -> str:
    relations = [
        (entry.name, f"{entry.lhs} → {entry.rhs}", *(f"{entry.edges[split]:,}" for split in SPLITS))
        for entry in manifest.relations
    ]
    tables = [(entry.name, f"{entry.nodes:,}") for entry in manifest.tables]
    rejected = manifest.rejected
    reasons = "".join(f"\n- {count:,} {reason}" for reason, count in rejected.by_reason.items())
    return _page(
        "Graph",
        _table(("table", "nodes"), tables),
        _table(("relation", "tables", *SPLITS), relations),
        f"{count_of(rejected.rows, 'row')} rejected{':' if reasons else '.'}{reasons}",
    )


def training_figures(root: str) -> Figures:
    """The last step and epoch, and the last logged value of each figure in `TRAINED`."""
    last: dict[str, Any] = {}
    url = storage.join(root, "training/metrics.jsonl")
    for line in unseal_lines(storage.read_bytes(url), url):
        last |= line
    finished = storage.read_json(storage.join(root, FINISHED))
    return {
        "step": finished["step"],
        "epoch": last["epoch"] + 1,
        **{name: last[name] for name in TRAINED if name in last},
    }


def training_text(root: str) -> str:
    finished = storage.read_json(storage.join(root, FINISHED))
    plan = []
    for table in storage.read_json(storage.join(root, "training/plan.json")):
        parts = [part for part in table["parts"] if part["rows"]]
        most = max(part["bytes"] for part in parts) / 1024**2
        ranks = len({part["rank"] for part in parts})
        plan.append((table["table"], table["sharding"], f"{ranks}", f"{most:,.0f} MiB"))
    figures = [(name, f"{value:,.6g}") for name, value in training_figures(root).items()]
    return _page(
        "Training",
        f"Finished after step {finished['step']:,}: {finished['reason']}.",
        _table(("figure", "at the end"), figures),
        _table(("table", "sharding", "ranks", "memory per rank"), plan),
    )


def evaluation_figures(config: Config, metrics: Metrics) -> Figures:
    split = config.evaluation.split
    of_all = {f"{split}.{ALL}.{name}": value for name, value in metrics[split][ALL].items()}
    return of_all | figures_of_lists(metrics) | figures_of_probe(metrics)


def evaluation_text(config: Config, metrics: Metrics, missed: Sequence[str]) -> str:
    """`missed`: a sentence for each gate that failed."""
    verdict = "All gates passed." if config.evaluation.gates else "The config has no gates."
    if missed:
        verdict = "Nothing is exported:" + "".join(f"\n- {sentence}" for sentence in missed)
    split = config.evaluation.split
    names = [name for name in metrics[split][ALL] if not name.endswith(tuple(f"_{side}" for side in SIDES))]
    rows = [(relation, *(_figure(figures.get(name)) for name in names)) for relation, figures in metrics[split].items()]
    head = (split, *names)
    title = f"Evaluation of step {metrics['checkpoint']:,}"
    return _page(title, verdict, _table(head, rows), *_measured_lists(metrics), *_probed(metrics))


def _measured_lists(metrics: Metrics) -> list[str]:
    """A table of each relation's lists: a row for a figure, a column for what made the lists."""
    parts = []
    for relation, of in metrics.get(LISTS, {"relations": {}})["relations"].items():
        figures = of["figures"]
        names = dict.fromkeys(name for each in figures.values() for name in each)
        rows = [(name, *(_figure(each.get(name)) for each in figures.values())) for name in names]
        parts.append(_table((f"lists of {relation}", *figures), rows))
    return parts


def _probed(metrics: Metrics) -> list[str]:
    """A table of the probe: a row for what the label is predicted from."""
    if PROBE not in metrics:
        return []
    of = metrics[PROBE]
    rows = [(name, *(_figure(value) for value in figures.values())) for name, figures in of["figures"].items()]
    return [_table((f"{of['column']} of {of['table']}", *of["figures"][VECTORS]), rows)]


def export_figures(manifest: ExportManifest) -> Figures:
    return {"step": manifest.checkpoint, **{f"rows.{table.name}": table.rows for table in manifest.tables}}


def export_text(manifest: ExportManifest, folder: str) -> str:
    rows = [(table.name, f"{table.rows:,}", f"{len(table.files):,}") for table in manifest.tables]
    return _page(
        f"Embeddings of step {manifest.checkpoint:,}",
        f"{manifest.dim} dimensions, compared by {COMPARED_BY[manifest.comparator]}, in `{folder}`.",
        _table(("table", "rows", "files"), rows),
        *([] if manifest.aligned is None else _aligned_text(manifest.aligned)),
        *([] if manifest.map is None else _map_text(manifest.map)),
    )


def _aligned_text(aligned: Aligned) -> tuple[str, str]:
    rows = [
        (table, f"{of.nodes:,}", _figure(of.cosine_before), _figure(of.cosine_after))
        for table, of in aligned.tables.items()
    ]
    head = ("table", "nodes of both", "mean cosine, as learned", "mean cosine, rotated")
    return f"Rotated onto the embeddings of `{aligned.root}`.", _table(head, rows)


def _map_text(of: VersionMap) -> tuple[str, str]:
    title = f"Maps to the embeddings of `{of.root}`, measured on nodes that they were not fitted to:"
    return title, _table(MAP_COLUMNS, map_rows(of))


def lists_figures(made: Mapping[str, ListsManifest]) -> Figures:
    figures: Figures = {}
    for name, of in made.items():
        figures |= {f"users.{name}": of.users, f"candidates.{name}": of.candidates}
    return figures


def lists_text(made: Mapping[str, ListsManifest], folder: str) -> str:
    rows = [
        (name, f"{of.users:,}", f"{of.candidates:,}", f"{of.k:,}", f"{len(of.files):,}") for name, of in made.items()
    ]
    return _page(
        "Lists of candidates",
        f"For each user the best candidates by the model's score, in `{folder}`.",
        _table(("relation", "users", "candidates", "k", "files"), rows),
    )


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _page(title: str, *parts: str) -> str:
    return "\n\n".join((f"# {title}", *parts)) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, right-aligned except for the first column."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
