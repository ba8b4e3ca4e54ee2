"""A plain Python implementation of docs/prepare.md over lists, one rule after another."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

TABLES = {
    **dict.fromkeys(["follow", "mute", "friend", "block"], ("user", "user")),
    **dict.fromkeys(["fav", "click", "dislike"], ("user", "tweet")),
}
SPLITS = ["train", "validation", "test"]
NEGATIVES = "negatives/"


class Row(NamedTuple):
    """A row of a raw file."""

    lhs: str | None
    relation: str | None
    rhs: str | None
    weight: float | None = 1.0
    time: int | None = 0
    split: str | None = None


@dataclass
class Expected:
    """The graph: edges (lhs, relation, rhs) → weight of each split in their order, the nodes of each table with their
    degrees in the order of their numbers, rejected rows (lhs, relation, rhs, reason), cold edges a split, and times.

    The splits of explicit negatives begin with `NEGATIVES`; a graph without has none."""

    edges: dict[str, dict[tuple[str, str, str], float]] = field(default_factory=dict)
    nodes: dict[str, dict[str, int]] = field(default_factory=dict)
    rejected: Counter[tuple[Any, ...]] = field(default_factory=Counter)
    cold: dict[str, int] = field(default_factory=dict)
    times: dict[tuple[str, str, str], int | None] = field(default_factory=dict)

    @property
    def by_reason(self) -> dict[str, int]:
        reasons: Counter[str] = Counter()
        for row, count in self.rejected.items():
            reasons[row[-1]] += count
        return dict(sorted((+reasons).items()))


def expect(
    rows: list[Row],
    options: dict[str, Any],
    symmetric: Collection[str] = (),
    settled: dict[tuple[str, str, str], str] | None = None,
    now: int | None = None,
    negatives: Mapping[str, str] | None = None,
) -> Expected:
    """`options` are those of the config's section `prepare`, all of them given but `split` where rows have one.

    `settled`: the splits of the edges of an earlier day, if the sources have splits; `now`: what ages count from, by
    default the newest time; `negatives`: by relation, the one that holds its explicit negatives.
    """
    result = Expected()
    rows = [row._replace(lhs=row.lhs or None, relation=row.relation or None, rhs=row.rhs or None) for row in rows]
    rows = [_with_ordered_ends(row) if row.relation in symmetric else row for row in rows]
    newest = newest_of(rows, options)
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if reason := _unsound(row, options) or _too_old(row, newest if now is None else now, options):
            result.rejected[row.lhs, row.relation, row.rhs, reason] += 1
        else:
            edge = str(row.lhs), str(row.relation), str(row.rhs)
            groups.setdefault(edge, []).append(_decayed(row, newest if now is None else now, options))
    for edge, reason in _overruled(groups, negatives or {}).items():
        result.rejected[*edge, reason] += len(groups.pop(edge))
    edges = dict(_collapsed(groups, options["repeats"], result.rejected, settled or {}))
    rounds = options["min_degree_rounds"]
    while rounds is None or rounds > 0:
        degrees = _degrees(edges)
        weak = {node for node, degree in degrees.items() if degree < options["min_degree"].get(node[0], 0)}
        if not weak:
            break
        for edge in [edge for edge in edges if weak & set(_ends(edge))]:
            result.rejected[*edge, "low_degree"] += 1
            del edges[edge]
        rounds = None if rounds is None else rounds - 1
    splits = _with_negatives(edges, options, set((negatives or {}).values()))
    trained = _degrees([edge for edge in edges if splits[edge] == "train"])
    cold = {edge for edge in edges if splits[edge] != "train" and any(node not in trained for node in _ends(edge))}
    if options["cold_nodes"] == "drop":
        for edge in cold:
            result.rejected[*edge, "cold_node"] += 1
            del edges[edge]
        cold = set()
    order = _order_with_reverses(edges, splits, cold, (options["split"] or {}).get("seed", 0), symmetric)
    trained = _degrees([edge for edge in edges if splits[edge] == "train"])
    result.times = {edge: row.time for edge, row in edges.items()}
    for split in [*SPLITS, *(NEGATIVES + split for split in SPLITS if negatives)]:
        chosen = sorted((edge for edge in edges if splits[edge] == split), key=order.__getitem__)
        result.edges[split] = {edge: edges[edge].weight or 0.0 for edge in chosen}
        result.cold[split] = sum(splits[edge] == split for edge in cold)
    result.nodes = _nodes(edges, trained)
    return result


def _nodes(edges: Collection[tuple[str, str, str]], trained: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    found = {}
    for table in ("user", "tweet"):
        names = {name for of, name in _degrees(edges) if of == table}
        ordered = sorted(names, key=lambda name: hashlib.md5(name.encode()).hexdigest())
        found[table] = {name: trained[table, name] for name in ordered}
    return found


def newest_of(rows: list[Row], options: dict[str, Any]) -> int:
    return max((row.time for row in rows if row.time is not None and not _unsound(row, options)), default=0)


def _overruled(
    groups: dict[tuple[str, str, str], list[Row]], negatives: Mapping[str, str]
) -> dict[tuple[str, str, str], str]:
    """Each edge that a contrary one overrules, with the reason."""
    found = {}
    for lhs, relation, rhs in groups:
        positive, negative = (lhs, relation, rhs), (lhs, negatives.get(relation, ""), rhs)
        if negative in groups:
            first, second = ([row.time for row in groups[of] if row.time is not None] for of in (positive, negative))
            if first and second and max(second) > max(first):
                found[positive] = "later_negative"
            else:
                found[negative] = "also_positive"
    return found


def _too_old(row: Row, now: int, options: dict[str, Any]) -> str | None:
    window = options.get("window")
    return "outside_window" if window is not None and row.time is not None and row.time < now - window else None


def _decayed(row: Row, now: int, options: dict[str, Any]) -> Row:
    if not options.get("edge_decay"):
        return row
    halvings = (now - (row.time or 0)) / options["edge_decay"]["half_life"]
    return row._replace(weight=max((row.weight or 0) * 0.5**halvings, 2.0**-126))


def _order_with_reverses(
    edges: dict[tuple[str, str, str], Row],
    splits: dict[tuple[str, str, str], str],
    cold: set[tuple[str, str, str]],
    seed: int,
    symmetric: Collection[str],
) -> dict[tuple[str, str, str], str]:
    """What edges are sorted by; adds the reverses of symmetric edges everywhere."""
    order = {edge: _digest(edge, seed)[:12] for edge in edges}
    if symmetric:
        order = {edge: hashlib.md5(f"0{digits}".encode()).hexdigest() for edge, digits in order.items()}
    for edge in [edge for edge in edges if edge[1] in symmetric and edge[0] != edge[2]]:
        reverse = edge[2], edge[1], edge[0]
        edges[reverse], splits[reverse] = edges[edge], splits[edge]
        order[reverse] = hashlib.md5(f"1{_digest(edge, seed)[:12]}".encode()).hexdigest()
        cold |= {reverse} if edge in cold else set()
    return order


def _with_ordered_ends(row: Row) -> Row:
    if row.lhs is None or row.rhs is None:
        return row
    return row._replace(lhs=min(row.lhs, row.rhs), rhs=max(row.lhs, row.rhs))


def _unsound(row: Row, options: dict[str, Any]) -> str | None:
    split, window = options["split"], options["time_window"]
    if row.lhs is None or row.rhs is None:
        return "null_id"
    if row.relation not in TABLES:
        return "unknown_relation"
    if row.weight is None or not 0 < row.weight < math.inf:
        return "invalid_weight"
    if row.time is None and (
        window is not None
        or options.get("window")
        or options.get("edge_decay")
        or (split is not None and split["by"] != "hash" and _is_split(row.relation, split))
    ):
        return "null_timestamp"
    if window is not None and not window["start"] <= row.time < window["end"]:
        return "outside_window"
    lhs_table, rhs_table = TABLES[row.relation]
    if options["self_loops"] == "drop" and (lhs_table, row.lhs) == (rhs_table, row.rhs):
        return "self_loop"
    share = options["sampling"].get(row.relation, 1)
    digest = _digest((row.lhs, row.relation, row.rhs), (split or {}).get("seed", 0))
    return "not_sampled" if int(digest[12:24], 16) >= share * 2**48 else None


def _collapsed(
    groups: dict[tuple[str, str, str], list[Row]],
    repeats: str,
    rejected: Counter[tuple[Any, ...]],
    settled: dict[tuple[str, str, str], str],
) -> Iterator[tuple[tuple[str, str, str], Row]]:
    for edge, rows in groups.items():
        first_split = settled.get(
            edge, min((row.split for row in rows), key=lambda split: SPLITS.index(split or "train"))
        )
        first_split = first_split and first_split.removeprefix(NEGATIVES)
        same = [row for row in rows if row.split == first_split]
        timed = [row for row in same if row.time is not None]
        if timed:
            of_times = [row.time for row in timed if row.time is not None]
            chosen_time = max(of_times) if repeats == "last" else min(of_times)
            timed = [row for row in timed if row.time == chosen_time]
        stands = max(timed or same, key=lambda row: row.weight or 0)
        weights = {
            "count": math.fsum(row.weight or 0 for row in same),
            "sum": math.fsum(row.weight or 0 for row in same),
        }
        yield edge, stands._replace(weight=weights.get(repeats, stands.weight))
        merged = len(same) - 1 if repeats in weights else 0
        rejected[*edge, "merged"] += merged
        rejected[*edge, "duplicate"] += len(rows) - 1 - merged


def _with_negatives(
    edges: dict[tuple[str, str, str], Row], options: dict[str, Any], hold: Collection[str]
) -> dict[tuple[str, str, str], str]:
    """The splits of the edges, and by themselves those of the explicit negatives, the relations in `hold`."""
    apart = _splits({edge: row for edge, row in edges.items() if edge[1] in hold}, options)
    others = _splits({edge: row for edge, row in edges.items() if edge[1] not in hold}, options)
    return others | {edge: NEGATIVES + (split or "train") for edge, split in apart.items()}


def _splits(edges: dict[tuple[str, str, str], Row], options: dict[str, Any]) -> dict[tuple[str, str, str], str]:
    split = options["split"]
    if split is None:
        return {edge: row.split or "" for edge, row in edges.items()}
    others = {edge: "train" for edge in edges if not _is_split(edge[1], split)}
    return others | _splits_of_all({edge: row for edge, row in edges.items() if edge not in others}, split)


def _is_split(relation: str, split: dict[str, Any]) -> bool:
    return split.get("relations") is None or relation in split["relations"]


def _splits_of_all(edges: dict[tuple[str, str, str], Row], split: dict[str, Any]) -> dict[tuple[str, str, str], str]:
    if split["by"] == "hash":
        return {edge: _by_share(int(_digest(edge, split["seed"])[:12], 16) / 2**48, split) for edge in edges}
    if split["by"] == "time":
        times = sorted((row.time or 0 for row in edges.values()), reverse=True)
        splits = {}
        for edge, row in edges.items():
            # The edges no earlier than this one, itself included, as a share of all: all of them must be held out.
            splits[edge] = _by_share(sum(time >= (row.time or 0) for time in times) / len(times) - 1e-9, split)
        return splits
    splits = {}
    for lhs in {edge[0] for edge in edges}:  # every lhs is a user
        own = [edge for edge in edges if edge[0] == lhs]
        own.sort(key=lambda edge: (-(edges[edge].time or 0), _digest(edge, split["seed"])))
        held_out = ["test"] * int(split["test"]) + ["validation"] * int(split["validation"])
        for place, edge in enumerate(own):
            held = place < len(held_out) and place < len(own) - 1
            splits[edge] = held_out[place] if held else "train"
    return splits


def _by_share(position: float, split: dict[str, Any]) -> str:
    if position < split["test"]:
        return "test"
    return "validation" if position < split["test"] + split["validation"] else "train"


def _ends(edge: tuple[str, str, str]) -> list[tuple[str, str]]:
    lhs_table, rhs_table = TABLES[edge[1]]
    return [(lhs_table, edge[0]), (rhs_table, edge[2])]


def _degrees(edges: Any) -> Counter[tuple[str, str]]:
    return Counter(node for edge in edges for node in _ends(edge))


def _digest(edge: tuple[str, str, str], seed: int) -> str:
    return hashlib.md5("\t".join([str(seed), *edge]).encode()).hexdigest()
