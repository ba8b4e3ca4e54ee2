"""How rows became the edges of a graph, and whether another version may continue it.

The edges of the earlier days are never made again, so all versions have to agree on how rows become edges.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from twhin_core.config import Config, Relation
from twhin_core.config.numbers import in_seconds
from twhin_core.config.prepare import Prepare, Split
from twhin_core.config.relation import negative_relations
from twhin_core.graph.manifest import Manifest, RelationEntry, TableEntry


def rules_of(settings: Prepare, split: Split | None) -> dict[str, Any]:
    """For the manifest. `split`: None if the sources specify their splits."""
    return {
        "repeats": settings.repeats,
        "self_loops": settings.self_loops,
        "sampling": settings.sampling,
        "split": None if split is None else split.model_dump(),
        "time_window": None if settings.time_window is None else settings.time_window.model_dump(),
        "window": None if settings.window is None else in_seconds(settings.window),
        "edge_decay": None if settings.edge_decay is None else in_seconds(settings.edge_decay.half_life),
    }


def differences(config: Config, rules: dict[str, Any], before: Manifest) -> Iterator[str]:
    """A few words on each difference that keeps a graph by `rules` from continuing `before`."""
    assert before.rules is not None
    yield from _of_tables(config, before.tables)
    yield from _of_relations(config.model.relations, config.prepare.derive if config.prepare else (), before)
    yield from _of_negatives(config.model.relations, before.relations)
    for key in ("repeats", "self_loops", "time_window", "edge_decay"):
        if rules[key] != before.rules[key]:
            yield f"prepare.{key} was {before.rules[key]!r} and is {rules[key]!r}"
    window, had = rules["window"], before.rules["window"]
    if had is not None and (window is None or window > had):
        yield f"prepare.window was {had!r} and is {window!r}, but older edges are gone"
    now, then = rules["split"], before.rules["split"]
    yield from _of_splits(then, now)
    for entry in before.relations:
        shares = [of["sampling"].get(entry.name, 1.0) for of in (before.rules, rules)]
        if shares[0] != shares[1]:
            yield f"prepare.sampling of {entry.name} was {shares[0]:g} and is {shares[1]:g}"
        if now is not None and then is not None and _is_split(then, entry.name) != _is_split(now, entry.name):
            yield f"prepare.split.relations: {entry.name} was {'held out' if _is_split(then, entry.name) else 'not'}"


def _of_tables(config: Config, before: list[TableEntry]) -> Iterator[str]:
    names = {table.name for table in config.model.embeddings.tables}
    for entry in before:
        if entry.name not in names:
            yield f"model.embeddings.tables: the table {entry.name} is missing"


def _of_relations(relations: list[Relation], derive: Collection[str], before: Manifest) -> Iterator[str]:
    for entry, relation in _matched(relations, before.relations):
        if relation is None:
            yield f"model.relations: {entry.name} is missing"
            continue
        for key in ("lhs", "rhs", "symmetric"):
            was, is_ = getattr(entry, key), getattr(relation, key)
            if was != is_:
                yield f"model.relations: {key} of {entry.name} was {was!r} and is {is_!r}"
        if entry.derived is None and any(entry.edges.values()) and entry.name in derive:
            yield f"prepare.derive: {entry.name} was read from rows and is derived"


def _matched(relations: list[Relation], before: list[RelationEntry]) -> Iterator[tuple[RelationEntry, Relation | None]]:
    """Each relation of the earlier graph, with the config's entry for it, if any."""
    given = {relation.name: relation for relation in relations}
    for entry in before:
        yield entry, given.get(entry.name) or given.get("*")


def _of_negatives(relations: list[Relation], before: list[RelationEntry]) -> Iterator[str]:
    """A relation that is new may hold the negatives of one that is not, since it has no edges yet."""
    old, held, hold = {entry.name for entry in before}, negative_relations(before), negative_relations(relations)
    for entry, relation in _matched(relations, before):
        was, is_ = (None if of is None or of.negatives is None else of.negatives.relation for of in (entry, relation))
        if relation is not None and was != is_ and (was is not None or is_ in old):
            names = ["none" if name is None else repr(name) for name in (was, is_)]
            yield f"model.relations: negatives of {entry.name} were {names[0]} and are {names[1]}"
        elif entry.name in hold - held:
            yield f"model.relations: {entry.name} held edges to train on and holds negatives"


def _of_splits(then: dict[str, Any] | None, now: dict[str, Any] | None) -> Iterator[str]:
    if then is None or now is None:
        if then is not now:
            yield f"the splits were those of {_origin(then)} and are those of {_origin(now)}"
        return
    for key in now:
        if key != "relations" and then[key] != now[key]:
            yield f"prepare.split.{key} was {then[key]!r} and is {now[key]!r}"


def _origin(split: dict[str, Any] | None) -> str:
    return "the sources" if split is None else "prepare.split"


def _is_split(split: dict[str, Any], relation: str) -> bool:
    return split["relations"] is None or relation in split["relations"]
