"""Gates: bounds that metrics must meet before anything is exported, and the decision, `gates.json`, beside the metrics.

A gate names its metric as `<split>.<relation or all>.<metric>`, such as `test.all.mrr`, or, for nodes in a degree
bucket, as `<split>.degrees.<query or answer>.<bucket>.<metric>`, such as `test.degrees.query.1-9.mrr`. What is measured
against an earlier version is `drift.<table or relation>.<metric>`, such as `drift.user.neighbors@10`; what is measured
of lists of candidates is `lists.<relation>.<metric>`, such as `lists.follow.recall@50`. Names of relations may contain
dots; those of splits, buckets and metrics do not. What is measured of a label is `probe.<input>.<metric>`, such as
`probe.vectors.auc`. Bounds are numbers, or the same figure of an earlier version or of a
baseline. `data_gates` has those on the data.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Any

from twhin_core import storage
from twhin_core.config import Config, Gate
from twhin_core.config.relation import negative_relations
from twhin_core.errors import UserError, suggest
from twhin_core.evaluation.data_gates import DATA, check_data_gate
from twhin_core.evaluation.drift import metric_names
from twhin_core.evaluation.list_metrics import LISTS, figures_of_lists, lengths_of, list_names
from twhin_core.evaluation.metrics import (
    ALL,
    ANSWER,
    AUC_REFERENCE,
    DIFFERENCES,
    DRIFT,
    GAUC,
    MODEL,
    PREVIOUS,
    QUERY,
    SAMPLED,
    Figures,
    Metrics,
    buckets,
    headline_name,
    names,
    prefix,
    split_of,
)
from twhin_core.evaluation.probe_names import PROBE, figures_of_probe, probe_names
from twhin_core.evaluation.result import place
from twhin_core.ranking.queries import Split

DEGREES = "degrees"

Decision = dict[str, Any]
"""{"passed": …, "checkpoint": step, "gates": [{"metric", "value", "previous", "bounds", "passed", "reason"}, …]};
`previous` is null if there is no earlier version to compare with, or if it has no such figure. Gates with
`at_least_baseline` have the value of that as `baseline`."""


def check_names(config: Config, found: Iterable[str] | None = None) -> None:
    """Checks before any work that the headline and every gate can name a metric.

    Args:
        found: the names of the graph's relations, once they are known; the config may have `*` instead.

    Raises:
        UserError: the headline or a gate names a split, relation, bucket or metric that there will not be, or a
            relation is named `all` or `degrees`.
    """
    listed = {relation.name for relation in config.model.relations}
    relations = listed if found is None else set(found)
    for name, what in ((ALL, "the figures over all relations"), (DEGREES, "the figures by degree")):
        if name in relations:
            where = "model.relations" if name in listed else "prepare.sources: a relation in the data"
            raise UserError(f"{where}: {name!r} is the name of {what}; rename that one")
    if headline_name(config.evaluation) not in (figures := names(config.evaluation)[:-1]):
        name = config.evaluation.headline
        stated = [figure.removeprefix(SAMPLED) for figure in figures]
        raise UserError(f"evaluation.headline: {name!r} is no metric; {suggest(name, stated)}")
    for path in config.evaluation.gates:
        if path.startswith(DATA):
            check_data_gate(path, config, relations)
        else:
            _check_path(path, config, relations)


def _check_path(path: str, config: Config, relations: Collection[str]) -> None:
    """Raises UserError if a gate names no metric. A `*` among the relations stands for any that prepare may find."""
    measured, metrics = config.evaluation.split, names(config.evaluation)
    split, _, rest = path.partition(".")
    relation, _, metric = rest.rpartition(".")
    if split == DRIFT:
        _check_drift(path, relation, metric, config, relations)
        return
    if config.prepare is not None and relation in config.prepare.derive and split == measured:
        raise UserError(f"evaluation.gates: {path}: {relation} is derived (prepare.derive), so none of it is held out")
    if split == measured and relation in negative_relations(config.model.relations):
        raise UserError(f"evaluation.gates: {path}: {relation} has explicit negatives alone, which are not ranked")
    if split == LISTS:
        if path not in (known := _of_lists(config)):
            raise _no_metric(path, known)
        return
    if split == PROBE:
        if path not in (known := probe_names(config.evaluation)):
            raise _no_metric(path, known)
        return
    is_known = relation in relations or ("*" in relations and relation and not relation.startswith(f"{DEGREES}."))
    if split == measured and metric in metrics and is_known:
        return
    known = [f"{measured}.{ALL}.{metric}" for metric in (*metrics, prefix(config.evaluation) + AUC_REFERENCE)]
    known += [*_of_degrees(config), *_of_negatives(config)]
    if path not in known:
        near = difflib.get_close_matches(relation, relations, n=20) or list(relations)[:20]
        known += [f"{measured}.{relation}.{metric}" for relation in near for metric in metrics]
        raise _no_metric(path, known)


def _check_drift(path: str, name: str, metric: str, config: Config, relations: Collection[str]) -> None:
    """Raises UserError if a gate on drift names no figure. A `*` among the relations stands for any."""
    if config.evaluation.previous is None:
        raise UserError(f"evaluation.gates: {path} needs evaluation.previous, the run to compare with")
    of_tables, of_relations = metric_names(config.evaluation)
    tables = [table.name for table in config.model.embeddings.tables]
    if (name in tables and metric in of_tables) or ((name in relations or "*" in relations) and metric in of_relations):
        return
    known = [f"{DRIFT}.{table}.{of}" for table in tables for of in of_tables]
    known += [f"{DRIFT}.{relation}.{of}" for relation in list(relations)[:20] for of in of_relations]
    raise _no_metric(path, known)


def decide(config: Config, metrics: Metrics) -> Decision:
    """Judges `metrics` by the gates of the config. Raises UserError if a gate names no metric."""
    split = split_of(metrics)[0]
    figures, before = named_figures(metrics), _of_baseline(metrics, PREVIOUS)
    differences = {
        f"{split}.{relation}.{name}": values[0]
        for relation, of in metrics.get(DIFFERENCES, {}).items()
        for name, values in of.items()
    }
    gates = []
    for path, gate in config.evaluation.gates.items():
        if path.startswith(DATA):  # prepare has decided
            continue
        value, previous = figures.get(path), before.get(path)
        baseline = None if gate.at_least_baseline is None else _of_baseline(metrics, gate.at_least_baseline).get(path)
        if value is not None:
            drop = None if previous is None else -differences.get(path, value - previous)
            misses = _misses(gate, value, previous, drop) + _misses_of_baseline(gate, value, baseline)
            reason = f"{path} is {value:.6g}, {' and '.join(misses) or 'within its bounds'}"
        else:
            relations = {relation.name for relation in config.model.relations}
            _check_path(path, config, relations | metrics[split].keys())
            misses = [reason := f"{path} has no value: {_why_none(path, config)}"]
        entry = {"metric": path, "value": value, "previous": previous, "bounds": gate.model_dump(exclude_none=True)}
        if gate.at_least_baseline is not None:
            entry["baseline"] = baseline
        gates.append({**entry, "passed": not misses, "reason": reason})
    return {"passed": all(gate["passed"] for gate in gates), "checkpoint": metrics["checkpoint"], "gates": gates}


def _why_none(path: str, config: Config) -> str:
    if path.startswith(f"{DRIFT}."):
        return "the earlier version has too little of it"
    if path.startswith(f"{LISTS}."):
        return "no user has a held-out edge of that relation"
    if path.startswith(f"{PROBE}."):
        return "the label has not been measured; run `twhin evaluate`"
    if path in _of_negatives(config):
        return "no held-out edge has a query with held-out explicit negatives"
    return f"no held-out edge {'is in that bucket' if path in _of_degrees(config) else 'has that relation'}"


def missed(decision: Decision) -> list[str]:
    """The reason of each gate that is not met."""
    return [gate["reason"] for gate in decision["gates"] if not gate["passed"]]


def decision_url(root: str, split: Split) -> str:
    return place(root, split, "gates.json")


def read_decision(root: str, split: Split = "test") -> Decision | None:
    """The decision on the metrics of `split`, or None if evaluate has not finished."""
    decision: Decision | None = storage.find_json(decision_url(root, split))
    return decision


def _of_degrees(config: Config) -> list[str]:
    """The paths of all possible figures by degree."""
    evaluation = config.evaluation
    return [
        f"{evaluation.split}.{DEGREES}.{kind}.{bucket}.{metric}"
        for kind, metrics in ((QUERY, names(evaluation)), (ANSWER, names(evaluation, lists=False)))
        for bucket in buckets(evaluation)
        for metric in metrics
    ]


def _of_negatives(config: Config) -> list[str]:
    """The paths of the figures of relations with explicit negatives; a `*` among these stands for none."""
    named = [of.name for of in config.model.relations if of.negatives is not None]
    return [f"{config.evaluation.split}.{name}.{GAUC}" for name in (ALL, *named)] if named else []


def _of_lists(config: Config) -> list[str]:
    """The paths of all figures of lists."""
    return [
        f"{LISTS}.{relation}.{metric}"
        for relation, settings in config.recommend.items()
        for metric in list_names(lengths_of(config.evaluation, settings.k))
    ]


def _misses(gate: Gate, value: float, previous: float | None, drop: float | None) -> list[str]:
    """`drop`: how far the value is below the previous one, of the relations that both runs have."""
    misses = []
    if gate.min is not None and not value >= gate.min:
        misses.append(f"{gate.min - value:.3g} below its gate of at least {gate.min:g}")
    if gate.max is not None and not value <= gate.max:
        misses.append(f"{value - gate.max:.3g} above its gate of at most {gate.max:g}")
    # Without a figure of the earlier version there is nothing to be worse than.
    if gate.max_drop is not None and drop is not None and not drop <= gate.max_drop:
        misses.append(f"{drop:.3g} below the previous {previous:.6g}; at most {gate.max_drop:g} is allowed")
    return misses


def _misses_of_baseline(gate: Gate, value: float, baseline: float | None) -> list[str]:
    if gate.at_least_baseline is None:
        return []
    if baseline is None:
        return [f"{gate.at_least_baseline} has no value to compare with"]
    factor = 1.0 if gate.factor is None else gate.factor
    if value >= factor * baseline:
        return []
    times = "" if gate.factor is None else f"{factor:g} times "
    return [f"{factor * baseline - value:.3g} below {times}the {baseline:.6g} of {gate.at_least_baseline}"]


def named_figures(metrics: Metrics) -> dict[str, float]:
    """The figures of the model that a gate can name, by path."""
    (split, result), degrees = split_of(metrics), metrics.get("degrees", {})
    ranked = _paths(split, result, degrees.get(MODEL, {}))
    return ranked | _of_drift(metrics) | figures_of_lists(metrics) | figures_of_probe(metrics)


def _of_baseline(metrics: Metrics, name: str) -> dict[str, float]:
    """The figures of a baseline or of the earlier version, by the paths of the model's."""
    split, degrees = split_of(metrics)[0], metrics.get("degrees", {})
    ranked = _paths(split, metrics["baselines"].get(name, {}), degrees.get(name, {}))
    return ranked | figures_of_lists(metrics, name) | figures_of_probe(metrics, name)


def _paths(split: str, by_relation: Figures, by_degree: dict[str, Figures]) -> dict[str, float]:
    """All figures that a gate can name, by path."""
    groups = by_relation | {
        f"{DEGREES}.{kind}.{bucket}": figures for kind, of in by_degree.items() for bucket, figures in of.items()
    }
    return {
        f"{split}.{group}.{metric}": float(value)
        for group, figures in groups.items()
        for metric, value in figures.items()
    }


def _of_drift(metrics: Metrics) -> dict[str, float]:
    """The figures of drift that a gate can name, by path."""
    found = metrics.get(DRIFT, {"tables": {}, "relations": {}})
    of = {name: figures[ALL] for name, figures in found["tables"].items()}, found["relations"]
    return {
        f"{DRIFT}.{name}.{metric}": float(value)
        for named in of
        for name, figures in named.items()
        for metric, value in figures.items()
    }


def _no_metric(path: str, known: Iterable[str]) -> UserError:
    near = difflib.get_close_matches(path, known, cutoff=0.5) or list(known)[:3]
    return UserError(f"evaluation.gates: {path} names no metric; near it: {', '.join(near)}")
