"""What changed in the data since the version before: `graph/changes.json`, as tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from twhin_core.errors import Damaged
from twhin_core.graph.compared import OF_ALL, OF_DEGREES, Figure, read_changes
from twhin_core.graph.manifest import Manifest, read_manifest
from twhin_core.progress import log
from twhin_core.report.figures import Table
from twhin_core.schema import SIDES

SHOWN = 20
"""Tables, and relations: those whose popularity changed most."""
SHARES = ("rejected_share", "new_share", "lost_share", "top_share")
INDEX = "psi"
COMPARED = ["before", "now", "change"]
NAMES = {
    "edges": "edges",
    "nodes": "nodes",
    "rejected": "rejected rows",
    "rejected_share": "rejected rows, share",
    INDEX: "relations' shares of the edges, psi",
}


@dataclass(frozen=True)
class Changes:
    """The content of the section."""

    previous: str
    """The run root of the version before."""
    overall: Table
    tables: Table
    relations: Table
    degrees: Table
    relation_count: int


def collect(root: str) -> Changes | None:
    """None if the graph continues no other, or the files that say what changed are missing or damaged."""
    try:
        manifest = read_manifest(root)
        figures = None if manifest is None else read_changes(manifest.holder(root))
    except Damaged as error:
        log.warning("report: shows nothing of the changes in the data: %s", error)
        return None
    if manifest is None or manifest.previous is None or figures is None:
        return None
    relations = sorted((of.name for of in manifest.relations), key=lambda name: -_index(figures, name))
    return Changes(
        previous=manifest.previous.root,
        overall=_overall(figures),
        tables=_tables(figures, [of.name for of in manifest.tables[:SHOWN]]),
        relations=_relations(figures, relations[:SHOWN]),
        degrees=_degrees(figures, manifest, relations[:SHOWN]),
        relation_count=len(relations),
    )


def _index(figures: dict[str, Figure], relation: str) -> float:
    return figures.get(f"{relation}.{INDEX}", Figure(None)).now or 0.0


def _overall(figures: dict[str, Figure]) -> Table:
    rows = [[NAMES[name], *_compared(name, figures[name])] for name in OF_ALL if name in figures]
    return Table(["figure", *COMPARED], rows)


def _tables(figures: dict[str, Figure], tables: Iterable[str]) -> Table:
    rows = [
        [
            name,
            *_compared("nodes", figures[f"{name}.nodes"]),
            *(_number(share, figures[f"{name}.{share}"].now) for share in ("new_share", "lost_share")),
        ]
        for name in tables
    ]
    return Table(["table", "nodes before", "now", "change", "new", "lost"], rows)


def _relations(figures: dict[str, Figure], relations: Iterable[str]) -> Table:
    none = Figure(None)
    rows = [
        [
            name,
            *_compared("edges", figures[f"{name}.edges"]),
            *(_number(INDEX, figures.get(f"{name}.{side}.{INDEX}", none).now) for side in SIDES),
        ]
        for name in relations
    ]
    return Table(["relation", "edges before", "now", "change", *(f"psi of {side}" for side in SIDES)], rows)


def _degrees(figures: dict[str, Figure], manifest: Manifest, relations: Iterable[str]) -> Table:
    """Before and now in one cell, of the nodes of each table and of each side of a relation."""
    groups = [(table.name, table.name, "") for table in manifest.tables[:SHOWN]]
    groups += [(f"{name}.{side}", name, side) for name in relations for side in SIDES]
    rows = []
    for group, *named in groups:
        of = {name: figures.get(f"{group}.{name}", Figure(None)) for name in OF_DEGREES}
        rows.append([*named, *(f"{_number(name, one.before)} → {_number(name, one.now)}" for name, one in of.items())])
    return Table(["degrees of", "side", *(name.replace("top_share", "top 1 %") for name in OF_DEGREES)], rows)


def _compared(name: str, figure: Figure) -> list[str]:
    """Before, now, and the relative change of a count."""
    is_count = not name.endswith((*SHARES, INDEX))
    change = f"{figure.now / figure.before - 1:+.1%}" if is_count and figure.now is not None and figure.before else "–"
    return [_number(name, figure.before), _number(name, figure.now), change]


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name.endswith(SHARES):
        return f"{value:.1%}"
    if name.endswith(INDEX):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
