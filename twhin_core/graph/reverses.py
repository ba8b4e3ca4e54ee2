"""The reverses of edges: both directions of symmetric relations, and reverses in another split.

Ibis expressions over encoded edges (see `edges`), which all engines evaluate identically.
"""

from __future__ import annotations

from collections.abc import Iterator

import ibis
import ibis.expr.types as ir
import numpy as np

from twhin_core.config import Relation
from twhin_core.graph.edges import EDGE
from twhin_core.graph.hashes import DIGITS
from twhin_core.graph.manifest import Manifest

SUSPICIOUS_SHARE = 0.1
"""Share of a relation's test edges with their reverse in train from which on prepare and `describe` say so."""


def with_ordered_ends(rows: ir.Table) -> ir.Table:
    """Swaps lhs and rhs where the row's relation is `symmetric` and lhs is greater, so that both directions agree."""
    swapped = (rows.symmetric & (rows.lhs > rows.rhs)).fill_null(False)
    return rows.mutate(lhs=swapped.ifelse(rows.rhs, rows.lhs), rhs=swapped.ifelse(rows.lhs, rows.rhs))


def with_reverses(edges: ir.Table, relations: list[Relation]) -> ir.Table:
    """Adds the reverse of each edge of a symmetric relation, in the same split. The edges must have ordered ends.

    All hashes are replaced, since an edge and its reverse must not be neighbors in the order of edges.
    """
    chosen = _ids(rel for rel, relation in enumerate(relations) if relation.symmetric)
    mirrored = edges.filter(edges.lhs != edges.rhs).semi_join(chosen, "rel")
    reverse = mirrored.mutate(lhs=mirrored.rhs, rhs=mirrored.lhs, hash=_rehashed(mirrored, "1"))
    return edges.mutate(hash=_rehashed(edges, "0")).union(reverse.select(*edges.columns))


def mirrored(keys: ir.Table, relations: list[Relation]) -> ir.Table:
    """The edges `keys` (lhs, rel, rhs) and, in symmetric relations, their reverses."""
    chosen = _ids(rel for rel, relation in enumerate(relations) if relation.symmetric)
    reverse = keys.semi_join(chosen, "rel").select("rel", lhs="rhs", rhs="lhs")
    return keys.union(reverse.select(*keys.columns), distinct=True)


def in_order(edges: ir.Table, nodes: ir.Table, relations: list[Relation]) -> ir.Table:
    """The edges without those that `with_reverses` added. `nodes`: table, index, id."""
    chosen = _ids(rel for rel, relation in enumerate(relations) if relation.symmetric)
    pairs = edges.semi_join(chosen, "rel")
    lhs = nodes.select(lhs_table="table", lhs="index", lhs_id="id")
    rhs = nodes.select(rhs_table="table", rhs="index", rhs_id="id")
    named = pairs.inner_join(lhs, ["lhs_table", "lhs"]).inner_join(rhs, ["rhs_table", "rhs"])
    return edges.anti_join(chosen, "rel").union(named.filter(named.lhs_id <= named.rhs_id).select(*edges.columns))


def count_reversed(edges: ir.Table, relations: list[Relation]) -> dict[int, dict[str, int]]:
    """By relation and split: the held-out edges whose reverse is in train. Only relations that have some."""
    found: dict[int, dict[str, int]] = {}
    if _asked(relations):
        edges = of_one_table(edges, relations)
        # An inner join, of which engines hold the smaller side in memory: edges are unique, and so are reverses.
        reverses = edges.filter(edges.split != "train").select("rel", "split", lhs="rhs", rhs="lhs")
        found_in_train = edges.filter(edges.split == "train").select(*EDGE).inner_join(reverses, EDGE)
        for row in found_in_train.group_by("rel", "split").agg(count=ibis._.count()).to_pyarrow().to_pylist():
            found.setdefault(row["rel"], {})[row["split"]] = row["count"]
    return found


def of_one_table(edges: ir.Table, relations: list[Relation]) -> ir.Table:
    """The edges that may have a reverse by chance: of relations within a table that are not symmetric."""
    return edges.semi_join(_ids(_asked(relations)), "rel")


def _asked(relations: list[Relation]) -> list[int]:
    return [rel for rel, of in enumerate(relations) if of.lhs == of.rhs and not of.symmetric]


def describe_reversed(manifest: Manifest) -> Iterator[str]:
    """A line for each relation of whose test edges many have their reverse in train, with what to write."""
    for entry in manifest.relations:
        count, edges = entry.reversed.get("test", 0), entry.edges["test"]
        if count and count >= SUSPICIOUS_SHARE * edges:
            yield (
                f"{count:,} of {edges:,} test edges of {entry.name} have their reverse in train; if {entry.name} has "
                "no direction, these are known answers: set `symmetric: true` at its entry in model.relations"
            )


def _ids(rels: Iterator[int] | list[int]) -> ir.Table:
    return ibis.memtable({"rel": np.fromiter(rels, np.int32)}, schema={"rel": "int32"})


def _rehashed(edges: ir.Table, direction: str) -> ir.StringValue:
    return (ibis.literal(direction) + edges["hash"]).hexdigest("md5").substr(0, DIGITS)
