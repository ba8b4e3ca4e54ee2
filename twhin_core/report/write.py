"""The report: what the run's files say, section by section, put into the templates."""

from __future__ import annotations

from typing import Any

import jinja2

from twhin_core import storage
from twhin_core.checkpoints.checkpoint import Checkpoint, complete
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.evaluation.metrics import Metrics
from twhin_core.graph.manifest import read_schema
from twhin_core.progress import log
from twhin_core.report import charts, decision, exports, figures, neighbors, trained, training, vectors
from twhin_core.report.neighbors import Neighbors
from twhin_core.vectors.rows import Rows, SelectedRows

LONGEST_NAME = 120


def write_report(url: str, metrics: Metrics, config: Config, root: str) -> None:
    """Writes the report of `metrics` to `url`.

    All else is found under `root`: the gates' decision, the training log, the plan, the checkpoint's vectors and what
    was exported of it. A part whose files are not there is left out.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("twhin_core.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["short"] = _short
    environment.tests["short"] = lambda name: _short(name) == name
    page = environment.get_template("report.html").render(
        root=root,
        name=root.rstrip("/").rsplit("/", 1)[-1],
        step=metrics["checkpoint"],
        figures=figures.collect(metrics, config.evaluation),
        decision=decision.collect(metrics, root),
        panels=training.panels(config, root),
        trained=trained.collect(metrics, config, root),
        exported=exports.collect(metrics, root),
        charts=charts,
        **_of_vectors(metrics, config, root),
    )
    storage.write_text(url, page)


def _of_vectors(metrics: Metrics, config: Config, root: str) -> dict[str, Any]:
    """The parts that read the checkpoint of these metrics; None for each that cannot be had."""
    parts: dict[str, Any] = {"look": None, "near": None}
    checkpoint = next((found for found in complete(root) if found.step == metrics["checkpoint"]), None)
    if checkpoint is None:
        return parts
    nodes: dict[str, int] = metrics["graph"]["tables"]
    try:
        tables: dict[str, Rows] = {
            name: SelectedRows(checkpoint.rows(name), size) for name, size in nodes.items() if size
        }
        parts["look"] = vectors.collect(tables, config.evaluation.seed, unit_length=config.model.comparator == "cos")
        parts["near"] = _near(checkpoint, tables, config, root)
    except UserError as error:  # training has removed the checkpoint, or a vocabulary is broken: the figures are whole
        log.warning("evaluate: the report lacks what it would show of the vectors: %s", error)
    return parts


def _near(checkpoint: Checkpoint, tables: dict[str, Rows], config: Config, root: str) -> Neighbors:
    schema = read_schema(config, root)
    scorer = checkpoint.scorer(config.model, schema.relations)
    return neighbors.collect(config, root, schema, tables, scorer)


def _short(name: str, most: int = LONGEST_NAME) -> str:
    """A name that is too long, without its middle."""
    return name if len(name) <= most else f"{name[: most * 2 // 3]} … {name[-most // 4 :]}"
