"""Commands that query runs: `describe`, `verify`, `neighbors`, `score`, `embed`, `compare`.

Each imports only what it needs.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from twhin.pipelines import options
from twhin.pipelines.options import AsJson, RunRootPath
from twhin_core.errors import UserError
from twhin_core.progress import log

if TYPE_CHECKING:
    from twhin_core.embeddings import Embeddings


def describe(run_root: RunRootPath, as_json: AsJson = False) -> None:
    """Print the graph that prepare made: edges per split, degrees per table and relation, rejected rows per reason."""
    from twhin_core.graph.compared import read_changes
    from twhin_core.graph.manifest import find_manifest
    from twhin_core.graph.reverses import describe_reversed
    from twhin_core.graph.show import list_changes, list_graph
    from twhin_core.output import show
    from twhin_core.published import find_root

    root = find_root(run_root)
    manifest, changes = find_manifest(root), read_changes(root)
    show([*list_graph(manifest), *([] if changes is None else [list_changes(changes)])], as_json)
    for line in describe_reversed(manifest):
        log.warning("describe: %s", line)


def verify(run_root: RunRootPath, as_json: AsJson = False) -> None:
    """Compare everything that a run holds with its checksums, and print what is whole.

    Reads every file. Exits with code 2 if one is missing or has changed since it was written.
    """
    from twhin_core.output import Column, Listing, show
    from twhin_core.published import find_root
    from twhin_core.stages.verify import verify

    run_root = find_root(run_root)
    parts = verify(run_root)
    columns = [Column("part"), Column("files", ",d"), Column("state")]
    show([Listing("parts", f"files of {run_root}", columns, [[of.name, of.files, of.state] for of in parts])], as_json)
    faults = [fault for part in parts for fault in part.faults]
    if faults:
        count = f"{len(faults)} files are" if len(faults) > 1 else "1 file is"
        raise UserError(f"{run_root}: {count} not whole, the first: {faults[0]}")


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
        typer.Option(
            help="The end of the relation to ask for: rhs (the default) for a node at its lhs, lhs for one at its rhs."
        ),
    ] = None,
    index: Annotated[
        bool, typer.Option("--index", help="Use the exported faiss index instead of comparing all vectors.")
    ] = False,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="RELATION", help="Leave out nodes that known edges of this relation lead to. Repeatable."),
    ] = None,
    exclude_edges: options.ExcludeEdges = None,
    candidates: options.Candidates = None,
    candidates_id: options.CandidatesId = None,
    candidates_where: options.CandidatesWhere = None,
    candidates_timestamp: options.CandidatesTimestamp = None,
    max_age: options.MaxAge = None,
    min_degree: options.MinDegree = None,
    rule: options.RuleName = None,
    fetch: options.Fetch = None,
    prior: options.Prior = None,
    as_json: AsJson = False,
) -> None:
    """Print the neighbors of a node, with their scores.

    Without --relation, these are the nodes of its table with the highest cosine; with it, the nodes at the other end of
    the relation that the model scores highest. Uses the exported embeddings or, before the first export, the newest
    checkpoint. Put an ID that starts with a dash after `--`.
    """
    choice = options.choice_settings(
        candidates,
        candidates_id,
        candidates_where,
        candidates_timestamp,
        max_age,
        min_degree,
        exclude_edges,
        rule,
        fetch,
        prior,
    )
    embeddings = _load(run_root)

    from twhin_core.embeddings.show import list_neighbors
    from twhin_core.output import show

    found = embeddings[table].neighbors(node, relation, k, side, index, exclude or (), **choice)
    by = embeddings[table].describe(relation, side, index, prior)
    show([list_neighbors(embeddings, table, node, relation, side, by, found)], as_json)


def score(
    run_root: RunRootPath,
    relation: Annotated[str, typer.Argument(metavar="RELATION", help="The relation of the edge.")],
    lhs: Annotated[str, typer.Argument(metavar="LHS", help="The id of its source.")],
    rhs: Annotated[str, typer.Argument(metavar="RHS", help="The id of its target.")],
    prior: options.Prior = None,
    as_json: AsJson = False,
) -> None:
    """Print the model's score of one edge, and the rank of each end among all nodes of its table.

    Known answers are ranked too. Equal scores share their mean rank.
    """
    embeddings = _load(run_root)

    from twhin_core.embeddings.show import list_score
    from twhin_core.output import show

    show([list_score(embeddings, relation, lhs, rhs, embeddings.score(relation, lhs, rhs, prior))], as_json)


def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="Run root of the first run.")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="Run root of the second run.")],
    split: Annotated[Literal["test", "validation"], typer.Option(help="The held-out edges to compare on.")] = "test",
    as_json: AsJson = False,
) -> None:
    """Print the metrics of two evaluated runs side by side, with the 95 % interval of each difference.

    Both must have ranked the same edges; nodes are matched by their ids. The interval is from a paired bootstrap over
    the queries: if it does not contain 0, the runs differ by more than the choice of held-out queries explains.
    """
    from twhin_core.evaluation.paired import compare, list_comparison
    from twhin_core.output import show
    from twhin_core.published import find_root

    show(list_comparison(compare(find_root(run_a), find_root(run_b), split)), as_json)


def embed(
    run_root: RunRootPath,
    edges: Annotated[
        str,
        typer.Argument(
            metavar="EDGES", help="Parquet files, a path or pattern, with columns lhs, relation, rhs and maybe weight."
        ),
    ],
    table: Annotated[str, typer.Option(metavar="TABLE", help="The table of the nodes to embed.")],
    output: Annotated[str, typer.Option(metavar="FILE", help="Parquet file to write, local or on an object store.")],
    method: Annotated[
        Literal["fit", "mean"],
        typer.Option(help="fit: a few steps of the training loss; mean: the mean of what the edges predict."),
    ] = "fit",
    with_known: Annotated[
        bool, typer.Option("--with-known", help="Embed nodes that were trained too, by these edges alone.")
    ] = False,
    share: Annotated[
        str, typer.Option(metavar="I/N", help="Embed only the I-th of N shares of the nodes, I from 1 to N.")
    ] = "1/1",
) -> None:
    """Write vectors of nodes that were not trained, from their edges to nodes that were.

    The columns are id, edges (how many were used) and embedding.
    """
    part = _read_share(share)
    embeddings = _load(run_root)

    from twhin_core.inductive.edges import read_files
    from twhin_core.inductive.embed import write

    rows = write(embeddings.trained, table, read_files(edges), output, method, with_known, part)
    log.info("embed: %s vectors: %s", f"{rows:,}", output)


def _read_share(share: str) -> tuple[int, int]:
    number, slash, count = share.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count) <= 1_000_000):
        raise UserError(f"--share {share}: expected I/N with 1 ≤ I ≤ N, such as 2/8")
    return int(number) - 1, int(count)


def _load(run_root: str) -> Embeddings:
    # Importing torch makes many objects and no garbage. Collecting during the import and at exit took a quarter of
    # the time that a user waits.
    gc.disable()
    from twhin_core.embeddings import Embeddings

    gc.freeze()
    gc.enable()
    return Embeddings.load(run_root)
