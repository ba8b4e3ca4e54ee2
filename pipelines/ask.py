"""Commands that query a run: `twhin describe`, `neighbors` and `score`. Each imports what it needs when called."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from twhin.pipelines.options import RunRootPath
from twhin_core.errors import UserError

if TYPE_CHECKING:
    from twhin_core.embeddings import Embeddings


def describe(run_root: RunRootPath) -> None:
    """Print the graph that prepare made: edges per split, degrees per table and relation, rejected rows per reason."""
    from rich.console import Console

    from twhin_core.graph.manifest import MANIFEST, read_manifest
    from twhin_core.graph.show import print_graph

    manifest = read_manifest(run_root)
    if manifest is None:
        raise UserError(f"{run_root}: there is no finished graph here ({MANIFEST}); run `twhin prepare` first")
    print_graph(manifest, Console())


def neighbors(
    run_root: RunRootPath,
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
    run_root: RunRootPath,
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
