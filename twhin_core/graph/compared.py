"""What changed from the version before: `graph/changes.json`, made from the two manifests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from twhin_core import storage
from twhin_core.config.relation import negative_relations
from twhin_core.schema import SIDES

if TYPE_CHECKING:
    from twhin_core.graph.manifest import DegreeEntry, Manifest, RelationEntry

CHANGES = "graph/changes.json"
SMALLEST_SHARE = 1e-4
"""Shares below count as this one, so that an index stays finite."""

OF_ALL = ("edges", "nodes", "rejected", "rejected_share", "psi")
OF_DEGREES = ("mean", "p50", "p90", "p99", "max", "top_share")
OF_RELATION = ("edges", "psi", *(f"{side}.{name}" for side in SIDES for name in (*OF_DEGREES, "psi")))
OF_TABLE = ("nodes", "new", "new_share", "lost", "lost_share", *OF_DEGREES)


class Figure(NamedTuple):
    """A figure of this version and of the one before, each None if it has no value there."""

    now: float | None
    before: float | None = None


def compare(now: Manifest, before: Manifest | None) -> dict[str, Figure]:
    """By name: `OF_ALL`, `<relation>.` before those in `OF_RELATION`, `<table>.` before those in `OF_TABLE`."""
    mine = _figures(now)
    theirs = {} if before is None else _figures(before)
    found = {name: Figure(value, theirs.get(name)) for name, value in mine.items()}
    if before is not None:
        found |= {name: Figure(None, value) for name, value in theirs.items() if name not in mine}
        found |= {name: Figure(value) for name, value in _indices(now, before).items()}
    return found


def stability_index(before: Sequence[float], now: Sequence[float]) -> float:
    """The population stability index Σ (now - before) · ln(now / before) over the shares of the same classes."""
    pairs = [(max(old, SMALLEST_SHARE), max(new, SMALLEST_SHARE)) for old, new in zip(before, now, strict=True)]
    return sum((new - old) * math.log(new / old) for old, new in pairs)


def write_changes(root: str, figures: dict[str, Figure], previous: str, decision: list[dict[str, Any]]) -> None:
    """`decision`: of each gate on these figures, as in `evaluation/gates.json`."""
    listed = {name: figure._asdict() for name, figure in figures.items()}
    storage.write_json(storage.join(root, CHANGES), {"previous": previous, "figures": listed, "gates": decision})


def read_changes(root: str) -> dict[str, Figure] | None:
    """The figures, or None if this version continues no other."""
    found = storage.find_json(storage.join(root, CHANGES))
    return None if found is None else {name: Figure(**figure) for name, figure in found["figures"].items()}


def figures_of(root: str, manifest: Manifest) -> dict[str, Figure]:
    """The figures of the graph of the run at `root`, compared with those of the version that it continues, if any."""
    return read_changes(manifest.holder(root)) or compare(manifest, None)


def describe_changes(figures: dict[str, Figure], relations: Iterable[str]) -> list[str]:
    """A short line for each figure of the whole graph, and of the relations whose popularity changed most."""
    by_index = sorted(relations, key=lambda name: -(figures.get(f"{name}.psi", Figure(0.0)).now or 0.0))
    names = [*OF_ALL, *(f"{name}.{metric}" for name in by_index[:3] for metric in ("edges", "psi"))]
    return [f"{name} {shown(figures[name])}" for name in names if name in figures and figures[name].now is not None]


def shown(figure: Figure) -> str:
    """`1,000 → 1,050 (+5.0%)`."""
    if figure.before is None or figure.now is None:
        return _number(figure.now)
    change = f" ({figure.now / figure.before - 1:+.1%})" if figure.before else ""
    return f"{_number(figure.before)} → {_number(figure.now)}{change}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _figures(manifest: Manifest) -> dict[str, float]:
    rejected = manifest.rejected.rows - manifest.rejected.edges_before
    found: dict[str, float] = {
        "edges": sum(split.edges for split in manifest.splits.values()),
        "nodes": sum(entry.nodes for entry in manifest.tables),
        "rejected": rejected,
    }
    if manifest.raw_rows:
        found["rejected_share"] = rejected / manifest.raw_rows
    for relation in manifest.relations:
        found[f"{relation.name}.edges"] = sum(relation.edges.values())
        for side, degrees in relation.degrees.items():
            found |= {f"{relation.name}.{side}.{name}": value for name, value in _of_degrees(degrees).items()}
    for table in manifest.tables:
        new = table.added[-1] if table.added else table.nodes
        counts = {"nodes": table.nodes, "new": new, "lost": table.lost}
        shares = {f"{name}_share": counts[name] / max(table.nodes, 1) for name in ("new", "lost")}
        found |= {f"{table.name}.{name}": value for name, value in {**counts, **shares}.items()}
        found |= {f"{table.name}.{name}": value for name, value in _of_degrees(table.degrees).items()}
    return found


def _trained(manifest: Manifest) -> list[RelationEntry]:
    """The relations without those that hold explicit negatives."""
    held = negative_relations(manifest.relations)
    return [entry for entry in manifest.relations if entry.name not in held]


def _of_degrees(entry: DegreeEntry) -> dict[str, float]:
    return dict(zip(OF_DEGREES, (entry.mean, *entry.quantiles.values(), entry.top_share), strict=True))


def _indices(now: Manifest, before: Manifest) -> dict[str, float]:
    """Indices of the relations' shares of all edges, and of the shares that popular nodes have of a relation's."""
    trained = [_trained(of) for of in (before, now)]
    old = {entry.name: entry for entry in trained[0]}
    totals = [max(1, sum(sum(entry.edges.values()) for entry in of)) for of in trained]
    mix: list[list[float]] = [[], []]
    found: dict[str, float] = {}
    for entry in trained[1]:
        then = old.get(entry.name)
        mix[0].append(sum(then.edges.values()) / totals[0] if then else 0.0)
        mix[1].append(sum(entry.edges.values()) / totals[1])
        if then is None:
            continue
        of_sides = {}
        for side in SIDES:
            shares = then.degrees[side].shares, entry.degrees[side].shares
            if all(shares):
                of_sides[f"{entry.name}.{side}.psi"] = stability_index(*shares)
        if of_sides:
            found |= {**of_sides, f"{entry.name}.psi": max(of_sides.values())}
    return {"psi": stability_index(*mix), **found}
