"""What a version of a series was made from, and how good it is."""

from __future__ import annotations

import math

from pydantic import BaseModel

from twhin_core import storage
from twhin_core.checksum import crc32c
from twhin_core.evaluation.gates import named_figures, read_decision
from twhin_core.evaluation.metrics import ALL, DRIFT
from twhin_core.evaluation.result import read_metrics
from twhin_core.export.manifest import MANIFEST as EXPORT
from twhin_core.export.manifest import read_export_manifest
from twhin_core.graph.manifest import MANIFEST as GRAPH
from twhin_core.graph.manifest import read_manifest
from twhin_core.run import CONFIG, made_by, saved_config


class Lineage(BaseModel):
    """What registries are told of a version. URLs are those of the run root."""

    series: str
    version: str
    uri: str
    """Of the embeddings."""
    facts: dict[str, str]
    """The run root, checkpoint, code, config, graph with its size, and the version before."""
    figures: dict[str, float]
    """Over all relations, and the drift, by the names that gates give them. Finite: JSON has no other numbers."""


def read_lineage(series: str, version: str, root: str) -> Lineage:
    """Of an exported version."""
    config, exported = saved_config(root), read_export_manifest(root)
    assert exported is not None
    split = config.evaluation.split
    metrics, decision = read_metrics(root, split), read_decision(root, split)
    facts = read_facts(root, exported.checkpoint) | {"dim": f"{exported.dim}", "comparator": exported.comparator}
    if decision is not None and decision["gates"]:
        facts["gates"] = "passed" if decision["passed"] else "missed"
    figures = {} if metrics is None else named_figures(metrics)
    return Lineage(
        series=series,
        version=version,
        uri=storage.join(root, EXPORT.rpartition("/")[0]),
        facts=facts,
        figures={
            name: value
            for name, value in figures.items()
            if name.startswith((f"{split}.{ALL}.", f"{DRIFT}.")) and math.isfinite(value)
        },
    )


def read_facts(root: str, step: int) -> dict[str, str]:
    """What the checkpoint of `step` was made from."""
    code, revision = made_by(root)
    url = storage.join(root, CONFIG)
    facts = {
        "run_root": root,
        "checkpoint": f"{step}",
        "code_version": code,
        "code_revision": revision,
        "config": url,
        "config_crc32c": crc32c([storage.read_bytes(url)]),
    }
    graph = read_manifest(root)
    if graph is None:
        return facts
    url = storage.join(root, GRAPH)
    facts |= {"graph": url, "graph_crc32c": crc32c([storage.read_bytes(url)])}
    facts |= {f"nodes.{table.name}": f"{table.nodes}" for table in graph.tables}
    facts |= {f"edges.{name}": f"{of.edges}" for name, of in graph.splits.items()}
    return facts if graph.previous is None else facts | {"previous": graph.previous.root}
