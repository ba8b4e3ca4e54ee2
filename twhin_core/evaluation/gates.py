"""Gates: bounds that metrics must meet before anything is exported.

A gate names its metric as `<split>.<relation or all>.<metric>`, as in `test.all.mrr`. Names of relations may hold
dots, those of splits and metrics hold none.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from twhin_core.config import Config, Gate
from twhin_core.errors import UserError
from twhin_core.evaluation.metrics import ALL, Metrics, names


def check_names(config: Config) -> None:
    """Checks, before any work, that every gate can name a metric.

    Raises:
        UserError: a gate names another split, relation or metric than there will be, or a relation is named `all`.
    """
    relations = [relation.name for relation in config.model.relations]
    if ALL in relations:
        raise UserError(f"model.relations: {ALL!r} is the name of the figures over all relations; rename that one")
    measured, metrics = config.evaluation.split, names(config.evaluation)
    known = [f"{measured}.{relation}.{metric}" for relation in [ALL, *relations] for metric in metrics]
    for path in config.evaluation.gates:
        split, relation, metric = _parts(path)
        # `*` stands for relations that only prepare will find; `missed` knows them.
        found_later = "*" in relations and relation and split == measured and metric in metrics
        if path not in known and not found_later:
            raise _no_metric(path, known)


def missed(gates: Mapping[str, Gate], metrics: Metrics) -> list[str]:
    """One sentence for each gate that `metrics` does not meet; empty if all are met.

    Raises:
        UserError: a gate names no metric.
    """
    sentences = []
    for path, gate in gates.items():
        split, relation, metric = _parts(path)
        try:
            value = float(metrics[split][relation][metric])
        except (KeyError, TypeError):
            raise _no_metric(path, _paths(metrics)) from None
        if gate.min is not None and not value >= gate.min:
            sentences.append(f"{path} is {value:.6g}, {gate.min - value:.3g} below its gate of at least {gate.min:g}")
        if gate.max is not None and not value <= gate.max:
            sentences.append(f"{path} is {value:.6g}, {value - gate.max:.3g} above its gate of at most {gate.max:g}")
    return sentences


def _parts(path: str) -> tuple[str, str, str]:
    split, _, rest = path.partition(".")
    relation, _, metric = rest.rpartition(".")
    return split, relation, metric


def _paths(metrics: Metrics) -> list[str]:
    return [
        f"{split}.{relation}.{metric}"
        for split in ("test", "validation")
        for relation, figures in metrics.get(split, {}).items()
        for metric in figures
    ]


def _no_metric(path: str, known: Iterable[str]) -> UserError:
    known = list(known)
    near = difflib.get_close_matches(path, known, n=3, cutoff=0.5) or known[:3]
    return UserError(f"evaluation.gates: {path} names no metric; near it: {', '.join(near)}")
