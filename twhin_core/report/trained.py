"""What was trained: the model and schedule, the graph, the sharding plan, durations, and versions."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from twhin_core import storage
from twhin_core.checkpoints.blocks import MARKER
from twhin_core.checkpoints.checkpoint import FINISHED, FOLDER
from twhin_core.config import Config, Relation
from twhin_core.config.optimizer import Optimizer
from twhin_core.durations import Duration, describe_gpus, describe_memory, in_words, read_durations
from twhin_core.evaluation.metrics import Metrics
from twhin_core.graph.manifest import Manifest, read_manifest, relations_of
from twhin_core.progress import log
from twhin_core.records import find_whole
from twhin_core.report import costs
from twhin_core.report.figures import Table
from twhin_core.sizes import count_of

PLAN = "training/plan.json"
CONFIG = "config.yaml"
ROWS_SHOWN = 20
CONFIG_SHOWN = 100_000
"""Maximum length, in characters, of a config that is shown."""

Pairs = list[tuple[str, str]]


def collect(metrics: Metrics, config: Config, root: str) -> dict[str, Any]:
    """The content of the section, from the config, the manifest and the plan under `root`. Omits missing parts."""
    manifest = read_manifest(root) if config.prepare is not None else None
    url = storage.join(root, CONFIG)
    text = storage.read_text(url) if storage.exists(url) else ""
    relations = _relations(config, manifest)
    return {
        "model": _model(config) + _finished(root),
        "versions": _versions(metrics, root, text),
        "rejected": _rejected(manifest),
        "rejected_rows": 0 if manifest is None else manifest.rejected.rows,
        "is_prepared": manifest is not None,
        "splits": [(f"{name} edges", f"{edges:,}") for name, edges in metrics["graph"]["edges"].items()],
        "tables": _tables(metrics, config, manifest),
        "relations": Table(relations.headings, relations.rows[:ROWS_SHOWN]),
        "relation_count": len(relations.rows),
        "plan": _plan(root),
        "durations": _durations(root),
        "costs": costs.collect(config, root),
        "config": text if len(text) <= CONFIG_SHOWN else "",
    }


def _model(config: Config) -> Pairs:
    model, data = config.model, config.train_data
    loss = f"{model.loss}, temperature {model.temperature:g}" if model.loss == "softmax" else model.loss
    uniform = "uniform" if not data.global_negatives_power else f"by degree^{data.global_negatives_power:g}"
    negatives = [
        f"{count:,} {kind}"
        for count, kind in ((data.in_batch_negatives, "in batch"), (data.global_negatives, uniform))
        if count
    ]
    optimizers = {_optimizer(table.optimizer) for table in model.embeddings.tables}
    return [
        ("dimensions", str(model.dim)),
        ("operator", ", ".join(sorted({relation.operator for relation in model.relations}))),
        ("comparator", model.comparator),
        ("inverse relations", "yes" if model.reciprocal else "no"),
        ("loss", loss),
        *_regularization(config),
        ("negatives per side", " + ".join(negatives)),
        ("batch per replica", f"{data.per_replica_batch_size:,}"),
        ("maximum epochs", f"{config.training.num_epochs:,}"),
        ("table optimizer", ", ".join(sorted(optimizers))),
        ("relation optimizer", _optimizer(model.translation_optimizer)),
        ("seed", str(config.training.seed)),
    ]


def _regularization(config: Config) -> Pairs:
    of = config.model.regularization
    if of is None:
        return []
    return [("regularization", f"power {of.power}; tables {of.tables:g}, relations {of.relations:g}")]


def _optimizer(optimizer: Optimizer) -> str:
    """Name, learning rate and schedule."""
    schedule = optimizer.learning_rate
    key = "constant" if schedule is None else schedule.stated[0].partition(".")[0]
    kind = "" if key == "constant" else f", {key.replace('_', ' ')}"
    return f"{optimizer.name} {optimizer.choice.lr:g}{kind}"


def _finished(root: str) -> Pairs:
    finished = storage.find_json(storage.join(root, FINISHED))
    return [("ended", f"after step {finished['step']:,}: {finished['reason']}")] if finished else []


def _durations(root: str) -> Table | None:
    """How long each stage worked until now, and where."""
    rows = [
        [stage, in_words(of["seconds"]), time_in_words(of), of["machine"], str(of["cores"]),
         describe_memory(of) or "–", describe_gpus(of) or "–"]
        for stage, of in read_durations(root).items()
    ]  # fmt: skip
    return Table(["stage", "worked for", "ended", "machine", "cores", "memory", "GPU"], rows) if rows else None


def evaluated(root: str) -> str:
    """When and where the run was evaluated; empty if that is unknown."""
    of = read_durations(root).get("evaluate")
    if of is None:
        return ""
    cores = count_of(of["cores"], "core")
    machine = ", ".join(filter(None, (cores, describe_memory(of), describe_gpus(of) or "no GPU")))
    return f"Evaluated {time_in_words(of)} on {of['machine']} ({machine})"


def time_in_words(of: Duration) -> str:
    return f"{of['ended'][:16].replace('T', ' ')} UTC"


def _rejected(manifest: Manifest | None) -> Table | None:
    """The raw rows that did not become edges, by reason."""
    if manifest is None or not manifest.rejected.rows:
        return None
    total, reasons = manifest.rejected.rows, manifest.rejected.by_reason.items()
    rows = [[reason, f"{count:,}", f"{count / total:.1%}"] for reason, count in sorted(reasons, key=lambda of: -of[1])]
    return Table(["reason", "rows", "share of the rejected"], rows)


def _versions(metrics: Metrics, root: str, config_text: str) -> Pairs:
    """Versions of the code that trained (from the checkpoint's marker), wrote the config, and evaluated."""
    marker = storage.find_json(storage.join(root, FOLDER, str(metrics["checkpoint"]), MARKER))
    trained = [("trained by", f"twhin {marker['version']}")] if marker else []
    first = config_text.partition("\n")[0]
    written = [("config written by", first.partition(". ")[2])] if first.startswith("# ") else []
    packages = [(name, metadata.version(name)) for name in ("torch", "torchrec", "numpy", "pyarrow")]
    return [
        *trained,
        *written,
        ("evaluated by", f"twhin {metrics['version']}"),
        ("python", platform.python_version()),
        *packages,
    ]


def _tables(metrics: Metrics, config: Config, manifest: Manifest | None) -> Table:
    degrees = {entry.name: entry.degrees for entry in manifest.tables} if manifest is not None else {}
    content = {of.name: of.content for of in manifest.tables if of.content} if manifest is not None else {}
    headings = ["table", "nodes", "type"] + (["mean degree", "median", "largest"] if degrees else [])
    headings += ["with content", "of these without training edges"] if content else []
    rows = []
    for name, nodes in metrics["graph"]["tables"].items():
        row = [name, f"{nodes:,}", config.model.table(name).data_type]
        if degrees:
            of = degrees[name]
            quantiles = sorted(of.quantiles.items(), key=lambda item: float(item[0]))
            row += [f"{of.mean:,.1f}", f"{of.quantiles.get('0.5', quantiles[0][1]):,}", f"{quantiles[-1][1]:,}"]
        if content:
            with_content = content.get(name)
            row += [f"{with_content.nodes:,}", f"{with_content.cold:,}"] if with_content else ["0", "0"]
        rows.append(row)
    return Table(headings, rows)


def _relations(config: Config, manifest: Manifest | None) -> Table:
    """The relations, by training edges if known, most first."""
    if manifest is None:
        return Table(["relation", "tables", "operator", "weight"], [_relation(of) for of in config.model.relations])
    splits = list(manifest.splits)
    entries = list(zip(relations_of(config, manifest), manifest.relations, strict=True))
    entries.sort(key=lambda entry: -entry[1].edges.get("train", 0))
    rows = [[*_relation(of), *(f"{counted.edges.get(split, 0):,}" for split in splits)] for of, counted in entries]
    return Table(["relation", "tables", "operator", "weight", *splits], rows)


def _relation(of: Relation) -> list[str]:
    return [of.name, f"{of.lhs} → {of.rhs}", of.operator, f"{of.weight:g}"]


def _plan(root: str) -> Table | None:
    """The sharding of each table, with the largest part of any rank; None if the plan is missing or damaged."""
    url = storage.join(root, PLAN)
    plan = find_whole(url, "report: shows no plan")
    if plan is None:
        if storage.exists(storage.join(root, FINISHED)) and not storage.exists(url):
            log.warning("report: shows no plan: %s is missing", url)
        return None
    rows = []
    for table in plan:
        parts: list[dict[str, Any]] = table["parts"]
        largest = max(parts, key=lambda part: part["bytes"])
        ranks = len({part["rank"] for part in parts if part["rows"]})
        figures = f"{largest['rows']:,}", f"{largest['columns']:,}", f"{largest['bytes'] / 2**20:,.1f} MiB"
        rows.append([table["table"], table["sharding"], f"{ranks:,}", *figures])
    return Table(["table", "sharding", "ranks", "rows per rank", "columns", "memory per rank"], rows)
