"""Renders the report, section by section, from the run's files."""

from __future__ import annotations

import functools
from typing import Any

import jinja2

from twhin_core import storage
from twhin_core.checkpoints.checkpoint import at_step
from twhin_core.config import Config
from twhin_core.errors import UserError
from twhin_core.evaluation.metrics import Metrics
from twhin_core.graph.manifest import read_schema
from twhin_core.progress import log
from twhin_core.report import (
    changes,
    charts,
    decision,
    drift,
    earlier,
    exports,
    figures,
    known,
    lists,
    neighbors,
    outside,
    probe,
    trained,
    training,
    vectors,
)
from twhin_core.vectors.rows import Rows, SelectedRows

LONGEST_NAME = 120


def write_report(url: str, metrics: Metrics, config: Config, root: str) -> None:
    """Writes the report on `metrics` to `url`.

    Reads the gate decision, the training log, the plan, the checkpoint's vectors and the export from `root`. Omits a
    section whose files are missing.
    """
    page = (
        templates()
        .get_template("report.html")
        .render(
            root=root,
            name=root.rstrip("/").rsplit("/", 1)[-1],
            step=metrics["checkpoint"],
            figures=figures.collect(metrics, config.evaluation),
            decision=decision.collect(metrics, root),
            lists=lists.collect(metrics),
            probe=probe.collect(metrics),
            drift=drift.collect(metrics),
            changes=changes.collect(root),
            panels=training.panels(config, root),
            evaluated=trained.evaluated(root),
            earlier=earlier.collect(root),
            outside=outside.collect(root),
            trained=trained.collect(metrics, config, root),
            exported=exports.collect(metrics, root),
            charts=charts,
            **_of_vectors(metrics, config, root),
        )
    )
    storage.write_text(url, page)


@functools.cache
def templates() -> jinja2.Environment:
    """Cached, since it keeps the templates that it has compiled, which takes as long as the rest of a small report."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("twhin_core.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["short"] = _short
    environment.tests["short"] = lambda name: _short(name) == name
    return environment


def _of_vectors(metrics: Metrics, config: Config, root: str) -> dict[str, Any]:
    """The sections that read the checkpoint of these metrics; None for each that is unavailable."""
    parts: dict[str, Any] = {"vectors": None, "near": None, "known": None}
    checkpoint = at_step(root, metrics["checkpoint"])
    if checkpoint is None:
        return parts
    nodes: dict[str, int] = metrics["graph"]["tables"]
    try:
        tables: dict[str, Rows] = {
            name: SelectedRows(checkpoint.rows(name), size) for name, size in nodes.items() if size
        }
        parts["vectors"] = vectors.collect(tables, config.evaluation.seed, unit_length=config.model.comparator == "cos")
        schema = read_schema(config, root)
        scorer = checkpoint.scorer(config.model, schema.relations)
        prior = checkpoint.prior(scorer, schema.relations)
        parts["near"] = near = neighbors.collect(config, root, schema, tables, scorer, prior)
        parts["known"] = known.collect(config, root, schema, near.tables)
    except UserError as error:  # training has removed the checkpoint, or a vocabulary is broken
        log.warning("evaluate: the report lacks the sections on vectors: %s", error)
    return parts


def _short(name: str, most: int = LONGEST_NAME) -> str:
    """`name` with an ellipsis for its middle if it is too long."""
    return name if len(name) <= most else f"{name[: most * 2 // 3]} … {name[-most // 4 :]}"
