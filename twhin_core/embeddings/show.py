"""Answers as tables."""

from __future__ import annotations

from collections.abc import Sequence

from twhin_core.embeddings.embeddings import EdgeScore, Embeddings
from twhin_core.embeddings.search import NodeRank
from twhin_core.embeddings.table import Neighbor
from twhin_core.output import Cell, Column, Listing, printable
from twhin_core.schema import Side

SCORE = Column("score", "#.6g", plain="#.6g")


def list_neighbors(
    embeddings: Embeddings,
    table: str,
    node: str,
    relation: str | None,
    side: Side | None,
    by: str,
    neighbors: Sequence[Neighbor],
) -> Listing:
    """What `embeddings[table].neighbors(node, relation, …)` returned, with labels if prepare got some for the table.

    Args:
        by: as returned by `describe`.
    """
    candidates, question = table, f"near {table} {printable(node)}"
    if relation is not None:
        ends = embeddings.relations[relation]
        candidates = ends.lhs if side == "lhs" else ends.rhs
        given = f"{table} {printable(node)}"
        question = f"(?, {relation}, {given})" if side == "lhs" else f"({given}, {relation}, ?)"
    title = f"{question}: the best {len(neighbors):,} {by}"
    columns, named = (
        [Column(candidates, keys=("id",)), SCORE],
        embeddings.labels(candidates, [of.id for of in neighbors]),
    )
    rows: list[list[Cell]] = [[neighbor.id, neighbor.score] for neighbor in neighbors]
    if named is not None:
        columns.append(Column("label"))
        rows = [[*row, named.get(neighbor.id)] for row, neighbor in zip(rows, neighbors, strict=True)]
    return Listing("neighbors", title, columns, rows, has_header=False)


def list_score(embeddings: Embeddings, relation: str, lhs: str, rhs: str, score: EdgeScore) -> Listing:
    """One row for each end of the edge."""
    ends = embeddings.relations[relation]
    title = (
        f"({ends.lhs} {printable(lhs)}, {relation}, {ends.rhs} {printable(rhs)}) by {score.by}, "
        f"step {embeddings.step:,}"
    )
    columns = [
        Column("asked for", keys=("end",)), Column("id"), SCORE, Column("rank", ",.12g", plain=".12g"),
        Column("of", ",d", keys=("candidates",)),
    ]  # fmt: skip
    rows = [_rank_row("rhs", ends.rhs, rhs, score.rhs), _rank_row("lhs", ends.lhs, lhs, score.lhs)]
    return Listing("ends", title, columns, rows, has_header=False)


def _rank_row(side: str, table: str, name: str, rank: NodeRank) -> list[Cell]:
    return [f"{side} {table}", name, rank.score, rank.rank, rank.candidates]
