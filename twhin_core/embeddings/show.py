"""Prints answers: tables on a terminal, plain lines into a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from twhin_core.embeddings.embeddings import EdgeScore, Embeddings
from twhin_core.embeddings.search import NodeRank
from twhin_core.embeddings.table import Neighbor
from twhin_core.schema import Side


def print_neighbors(
    embeddings: Embeddings,
    table: str,
    node: str,
    relation: str | None,
    side: Side | None,
    by: str,
    neighbors: Sequence[Neighbor],
    console: Console,
) -> None:
    """Prints the ids and scores returned by `embeddings[table].neighbors(node, relation, …)`.

    Prints `id<TAB>score` into a pipe, with the title on stderr.

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
    rows = [[printable(neighbor.id), f"{neighbor.score:#.6g}"] for neighbor in neighbors]
    _print(title, [candidates, "score"], rows, console)


def print_score(embeddings: Embeddings, relation: str, lhs: str, rhs: str, score: EdgeScore, console: Console) -> None:
    """Prints one line for each end of the edge."""
    ends = embeddings.relations[relation]
    title = (
        f"({ends.lhs} {printable(lhs)}, {relation}, {ends.rhs} {printable(rhs)}) by the model's score "
        f"({embeddings.comparator}), step {embeddings.step:,}"
    )
    rows = [_rank_row("rhs", ends.rhs, rhs, score.rhs), _rank_row("lhs", ends.lhs, lhs, score.lhs)]
    _print(title, ["asked for", "id", "score", "rank", "of"], rows, console)


def _rank_row(side: str, table: str, name: str, rank: NodeRank) -> list[str]:
    return [f"{side} {table}", printable(name), f"{rank.score:#.6g}", f"{rank.rank:,.12g}", f"{rank.candidates:,}"]


def _print(title: str, headings: list[str], rows: list[list[str]], console: Console) -> None:
    if not console.is_terminal:
        sys.stderr.write(f"{title}\n")
        sys.stdout.writelines("\t".join(row) + "\n" for row in rows)
        return
    console.print(Text(title), soft_wrap=True)  # rich would wrap a table's own title at the width of the table
    table = Table()
    for heading in headings:
        is_name = heading in (headings[0], "id")
        # Long ids are folded and not cut: part of an id is useless.
        table.add_column(Text(heading), justify="left" if is_name else "right", overflow="fold", no_wrap=not is_name)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def printable(name: str) -> str:
    """An id on one line, with control and invisible characters escaped as in a Python string."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in name)
