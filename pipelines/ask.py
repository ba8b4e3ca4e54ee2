"""Commands that query a trained run: `twhin neighbors` and `twhin score`. Each imports what it needs when called."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from twhin_core.embeddings import Embeddings

RunRoot = Annotated[str, typer.Argument(metavar="RUN_ROOT", help="Folder or gs:// prefix of the run.")]


def neighbors(
    run_root: RunRoot,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="The table of the node.")],
    node: Annotated[str, typer.Argument(metavar="ID", help="The id of the node.")],
    relation: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Rank the nodes at the other end of this relation by the model's score."),
    ] = None,
    k: Annotated[int, typer.Option("-k", metavar="N", help="How many to print.")] = 10,
    side: Annotated[
        Literal["lhs", "rhs"] | None,
        typer.Option(help="The end of the relation to ask for. Default: rhs."),
    ] = None,
    index: Annotated[
        bool, typer.Option("--index", help="Use the exported faiss index instead of comparing all vectors.")
    ] = False,
) -> None:
    """Print the neighbors of a node, with their scores.

    Without --relation, these are the nodes of its table with the highest cosine; with it, the nodes at the other end of
    the relation that the model scores highest. Uses the exported embeddings or, before the first export, the newest
    checkpoint. Put an ID that starts with a dash after `--`.
    """
    embeddings = _load(run_root)

    from rich.console import Console

    from twhin_core.embeddings.show import print_neighbors

    found = embeddings[table].neighbors(node, relation, k, side, index)
    by = embeddings[table].describe(relation, side, index)
    print_neighbors(embeddings, table, node, relation, side, by, found, Console())


def score(
    run_root: RunRoot,
    relation: Annotated[str, typer.Argument(metavar="RELATION", help="The relation of the edge.")],
    lhs: Annotated[str, typer.Argument(metavar="LHS", help="The id of its source.")],
    rhs: Annotated[str, typer.Argument(metavar="RHS", help="The id of its target.")],
) -> None:
    """Print the model's score of one edge, and the rank of each end among all nodes of its table.

    Known answers are ranked too. Equal scores share their mean rank.
    """
    embeddings = _load(run_root)

    from rich.console import Console

    from twhin_core.embeddings.show import print_score

    print_score(embeddings, relation, lhs, rhs, embeddings.score(relation, lhs, rhs), Console())


def _load(run_root: str) -> Embeddings:
    # Importing torch makes many objects and no garbage. Collecting during the import and at exit took a quarter of
    # the time that a user waits.
    gc.disable()
    from twhin_core.embeddings import Embeddings

    gc.freeze()
    gc.enable()
    return Embeddings.load(run_root)
