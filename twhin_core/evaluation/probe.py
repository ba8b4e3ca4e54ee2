"""What vectors say of a label that they were not trained on: a logistic regression from them, beside simpler ones.

The same model is fitted to each of several inputs, on the same nodes, and measured on others that are held out.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from twhin_core.config import Config
from twhin_core.evaluation.labels import Labeled, read_labels
from twhin_core.evaluation.probe_figures import estimates
from twhin_core.evaluation.probe_names import BOTH, DEGREE, FEATURES, MAJORITY, VECTORS, Probed
from twhin_core.graph.manifest import read_schema
from twhin_core.paths import find_files
from twhin_core.ranking.queries import Floats, Ints
from twhin_core.scratch import scratch

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from twhin_core.checkpoints.checkpoint import Checkpoint
    from twhin_core.schema import Schema

RIDGES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
"""The penalties among which each input has the one that predicts best what it was not fitted to."""


def probe_digest(config: Config) -> str:
    """A digest of what the probe depends on beside the checkpoint.

    Raises:
        UserError: a file does not exist.
    """
    evaluation = config.evaluation
    assert evaluation.probe is not None
    files = [(file.url, file.size, file.version) for file in find_files(evaluation.probe.path)]
    content = [evaluation.probe.model_dump(), files, evaluation.seed, config.export.normalize]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def measure_probe(config: Config, root: str, checkpoint: Checkpoint) -> Probed:
    """The figures of each input, without their digest.

    Raises:
        UserError: as `labels.read_labels`, or a vocabulary is broken.
    """
    assert config.evaluation.probe is not None
    rows, schema = checkpoint.rows(config.evaluation.probe.table), read_schema(config, root)
    labeled = read_labels(config, root, schema, rows.dim)
    with scratch("probe") as folder:
        degree = _degrees(config, root, schema, labeled.rows, folder)
    inputs = _inputs(labeled, degree, rows.gather(labeled.rows), config.export.normalize)
    log_odds, ridges = {MAJORITY: _majority(labeled)}, {}
    for name, of in inputs.items():
        log_odds[name], ridges[name] = _predict(of, labeled)
    return _described(config, labeled, log_odds) | {"ridge": ridges}


def _described(config: Config, labeled: Labeled, log_odds: dict[str, Floats]) -> Probed:
    """See `probe_names.Probed`. `log_odds`: by input, of the nodes that are held out."""
    probe = config.evaluation.probe
    assert probe is not None
    label, shared = labeled.label[labeled.held_out], labeled.shared
    own = shared[1:] if len(labeled.classes) == 2 else shared
    found = {name: estimates(of, label, own) for name, of in log_odds.items()}
    pairs = [(VECTORS, DEGREE), *([(BOTH, FEATURES)] if FEATURES in found else [])]
    nodes = np.bincount(labeled.label, minlength=len(labeled.classes)).tolist()
    return {
        "table": probe.table,
        "column": probe.column,
        "classes": dict(zip(labeled.classes, nodes, strict=True)),
        "counts": labeled.counts,
        "fitted": int((~labeled.held_out).sum()),
        "held_out": len(label),
        "figures": {name: {key: one.value for key, one in of.items()} for name, of in found.items()},
        "intervals": {name: {key: one.interval for key, one in of.items()} for name, of in found.items()},
        "differences": {
            name: {key: one.above(found[other][key]) for key, one in found[name].items()} for name, other in pairs
        },
    }


def _inputs(labeled: Labeled, degree: Ints, vectors: Tensor, normalize: bool) -> dict[str, Tensor]:
    """What the label is predicted from, float64 [n, …], by name. Vectors are as they are exported."""
    import torch

    if normalize:
        vectors = torch.nn.functional.normalize(vectors)
    inputs = {DEGREE: torch.from_numpy(np.log1p(degree))[:, None], VECTORS: vectors.double()}
    if labeled.numbers.shape[1]:
        numbers = torch.from_numpy(labeled.numbers)
        inputs |= {FEATURES: numbers, BOTH: torch.cat([numbers, inputs[VECTORS]], 1)}
    return inputs


def _majority(labeled: Labeled) -> Floats:
    """The shares of the classes among the nodes that are not held out, for each that is."""
    count = np.bincount(labeled.label[~labeled.held_out], minlength=len(labeled.classes))
    return np.tile(np.log(np.maximum(count, 0.5)), (int(labeled.held_out.sum()), 1))


def _predict(inputs: Tensor, labeled: Labeled) -> tuple[Floats, float]:
    """([h, classes] the logarithms of the classes' probabilities for held-out nodes, the penalty that was chosen)."""
    import torch

    from twhin_core.evaluation.logistic import fit, loss

    label, classes = torch.from_numpy(labeled.label), len(labeled.classes)
    held_out, tuned_on = torch.from_numpy(labeled.held_out), torch.from_numpy(labeled.tuned_on)
    known = ~held_out
    scale = inputs[known].std(0, correction=0)
    inputs = (inputs - inputs[known].mean(0)) / torch.where(scale > 0, scale, 1.0)
    rest, ridge = known & ~tuned_on, RIDGES[0]
    if tuned_on.any() and rest.any():
        losses = {
            each: float(loss(fit(inputs[rest], label[rest], classes, each), inputs[tuned_on], label[tuned_on]))
            for each in RIDGES
        }
        ridge = min(losses, key=losses.__getitem__)
    model = fit(inputs[known], label[known], classes, ridge)
    return model.logits(inputs[held_out]).log_softmax(1).numpy(), ridge


def _degrees(config: Config, root: str, schema: Schema, rows: Ints, folder: Path) -> Ints:
    """[n] the training edges of each of the rows, which ascend."""
    from twhin_core.data.splits import open_split
    from twhin_core.schema import SIDES
    from twhin_core.vectors.degrees import read_degrees

    assert config.evaluation.probe is not None
    table = config.evaluation.probe.table
    prepared = read_degrees(config, root, table, schema.tables[table], folder / "degrees")
    if prepared is not None:
        return np.array(prepared[rows])
    number, degree = list(schema.tables).index(table), np.zeros(len(rows), np.int64)
    for edges in open_split(config, root, schema, "train").chunks():
        for side in SIDES:
            node: Any = getattr(edges, side)[schema.table_numbers[side][edges.rel] == number]
            at = np.searchsorted(rows, node).clip(max=len(rows) - 1)
            degree += np.bincount(at[rows[at] == node], minlength=len(rows))
    return degree
