"""`evaluation/report.html`: one file for a person, with nothing to load and no script."""

from __future__ import annotations

import json
from typing import Any

import jinja2

from twhin_core import __version__, storage
from twhin_core.config import Config
from twhin_core.evaluation.charts import WIDTH, BarChart, LineChart, bar_chart, line_chart
from twhin_core.evaluation.metrics import ALL, EDGES, MRR, Metrics
from twhin_core.evaluation.summary import compared, largest, split_of

RELATIONS_SHOWN = 20
TRAINING_LOG = "training/metrics.jsonl"


def write_report(url: str, metrics: Metrics, config: Config, root: str) -> None:
    """Writes the report of `metrics` to `url`; the loss curve is of the training log under `root`, if there is one."""
    split, result = split_of(metrics)
    shown = largest(result, RELATIONS_SHOWN)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("twhin_core.evaluation", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report_template.html").render(
        split=split,
        metrics=metrics,
        result=result,
        columns=compared(metrics),
        names=[name for name in result[ALL] if name != EDGES],
        shown=shown,
        relation_count=len(result) - 1,
        bars=_relation_chart(metrics, shown),
        losses=_loss_chart(storage.join(root, TRAINING_LOG)),
        facts=_facts(config),
        relation_names=_relation_columns(config),
        planted=metrics.get("planted", {}),
        chart_width=WIDTH,
        version=__version__,
        root=root,
    )
    storage.write_text(url, page)


def _relation_chart(metrics: Metrics, shown: list[str]) -> BarChart:
    columns = compared(metrics)
    planted: dict[str, Any] = metrics.get("planted", {})
    return bar_chart(
        names=shown,
        notes=[f"{columns['result'][name][EDGES]:,} edges" for name in shown],
        series={label: [columns[label][name][MRR] for name in shown] for label in ("result", "popularity")},
        marks=[planted.get(name, {}).get(MRR) for name in shown],
    )


def _loss_chart(url: str) -> LineChart | None:
    """Losses by step; where a step was logged twice, after a restart, the later line counts."""
    if not storage.exists(url):
        return None
    lines = [json.loads(line) for line in storage.read_text(url).splitlines()]
    curves = {
        label: sorted({line["step"]: line[key] for line in lines if key in line}.items())
        for label, key in (("training", "loss"), ("validation", "validation_loss"))
    }
    return line_chart(curves)


def _facts(config: Config) -> list[tuple[str, str]]:
    """What was trained, as (name, value)."""
    model, data = config.model, config.train_data
    loss = f"{model.loss}, temperature {model.temperature:g}" if model.loss == "softmax" else model.loss
    negatives = [
        f"{count} {kind}"
        for count, kind in ((data.in_batch_negatives, "in batch"), (data.global_negatives, "uniform"))
        if count
    ]
    optimizers = {f"{table.optimizer.name} {table.optimizer.choice.lr:g}" for table in model.embeddings.tables}
    return [
        ("dimensions", str(model.dim)),
        ("operator", ", ".join(sorted({relation.operator for relation in model.relations}))),
        ("comparator", model.comparator),
        ("inverse relations", "yes" if model.reciprocal else "no"),
        ("loss", loss),
        ("negatives a side", " + ".join(negatives)),
        ("batch a replica", f"{data.per_replica_batch_size:,}"),
        ("epochs at most", f"{config.training.num_epochs:,}"),
        ("optimizer of tables", ", ".join(sorted(optimizers))),
        ("optimizer of relations", f"{model.translation_optimizer.name} {model.translation_optimizer.choice.lr:g}"),
        ("seed", str(config.training.seed)),
    ]


def _relation_columns(config: Config) -> list[str]:
    """The metrics a relation is listed with."""
    evaluation = config.evaluation
    whole = [f"recall@{evaluation.recall_at[len(evaluation.recall_at) // 2]}"]
    return [MRR, f"{MRR}_lhs", f"{MRR}_rhs", f"hits@{evaluation.hits_at[-1]}", *whole, "auc"]
