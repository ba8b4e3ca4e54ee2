"""The figures of the probe in `evaluation/metrics.json`, and how gates name them."""

from __future__ import annotations

from typing import Any

from twhin_core.config import Evaluation
from twhin_core.evaluation.metrics import Metrics
from twhin_core.evaluation.probe_figures import ACCURACY, AUC

PROBE = "probe"
"""Key of the figures in the metrics, and the first word of their names in gates."""

MAJORITY, DEGREE, FEATURES = "majority", "degree", "features"
"""What predicts a label without vectors: the most frequent class; the training degree alone; the numbers given."""
VECTORS, BOTH = "vectors", "features_and_vectors"

Probed = dict[str, Any]
"""The figures of the probe, in this shape:

    {"config": "<digest>",                     of what they depend on beside the checkpoint
     "table": "user", "column": "churned",
     "classes": {"no": 900, "yes": 100},       and their nodes, of those that are used
     "counts": {"labels": …, "incomplete": …, "unmatched": …, "repeated": …, "unused": …},    see `labels.Labeled`
     "fitted": 700, "held_out": 300,           nodes
     "figures": {"majority": {"auc": 0.5, "accuracy": …}, "degree": {…}, "vectors": {…},
                 "features": {…}, "features_and_vectors": {…}},          the last two with `features`
     "intervals": {"majority": {"auc": [low, high], …}, …},              95 %, over held-out nodes
     "differences": {"vectors": {"auc": [difference, low, high], …},     from degree
                     "features_and_vectors": {…}},                       from features
     "ridge": {"degree": 0.001, …}}                                      the penalties that were chosen
"""


def figures_of_probe(metrics: Metrics, baseline: str | None = None) -> dict[str, float]:
    """The figures of the vectors, or in their place those of a baseline, by the names that gates give them."""
    found = metrics.get(PROBE, {"figures": {}})["figures"]
    return {
        f"{PROBE}.{name}.{key}": float(value)
        for name in (VECTORS, BOTH)
        if name in found
        for key, value in found.get(baseline or name, {}).items()
    }


def probe_names(evaluation: Evaluation) -> list[str]:
    """The names of all figures that gates can bound."""
    if evaluation.probe is None:
        return []
    inputs = (VECTORS, BOTH) if evaluation.probe.features else (VECTORS,)
    return [f"{PROBE}.{name}.{key}" for name in inputs for key in (AUC, ACCURACY)]
