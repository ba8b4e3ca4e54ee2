"""Where the results of a split are under a run root, its metrics, and whether they are up to date."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from twhin_core import storage
from twhin_core.config import Config
from twhin_core.evaluation.metrics import ALL, Metrics, split_of
from twhin_core.ranking.queries import Split


def folder(split: Split) -> str:
    """Of the results on `split`, under the run root: those on validation edges do not replace those on test edges."""
    return "evaluation" if split == "test" else f"evaluation/{split}"


def place(root: str, split: Split, *names: str) -> str:
    """The URL of a result on `split`."""
    return storage.join(root, folder(split), *names)


def metrics_url(root: str, split: Split) -> str:
    return place(root, split, "metrics.json")


def read_metrics(root: str, split: Split = "test") -> Metrics | None:
    """The metrics on `split` under the run root, or None if evaluate has not finished."""
    metrics: Metrics | None = storage.find_json(metrics_url(root, split))
    return metrics


def is_current(metrics: Metrics, config: Config, step: int) -> bool:
    """Whether `metrics` are of the checkpoint at `step`, measured as `config` says."""
    return bool(metrics["checkpoint"] == step and metrics["config"] == digest(config))


def headline(metrics: Metrics) -> str:
    """The main figure, for a log line."""
    (split, result), name = split_of(metrics), metrics["headline"]
    return f"{split} {name} {result[ALL][name]:.4f}"


def is_aligned(config: Config) -> bool:
    """Whether the drift is that of vectors which the export aligns with the version that they are compared with."""
    place, previous = config.export.align, config.evaluation.previous
    return place is not None and previous is not None and config.earlier_place(place) == previous


def digest(config: Config) -> str:
    """A digest of the settings that change the metrics and may differ between runs on one root."""
    settings: dict[str, Any] = {
        "evaluation": config.evaluation.model_dump(exclude={"gates", "headline", "lists", "memory_limit", "probe"}),
        "test_data": config.test_data.model_dump() if config.test_data else None,
    } | ({"aligned": True} if is_aligned(config) else {})
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
