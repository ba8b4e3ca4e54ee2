"""The command `recommend`: lists of the best candidates for many users."""

from __future__ import annotations

from typing import Annotated

import typer

from twhin.pipelines import options
from twhin.pipelines.options import AsJson, RunRootPath
from twhin_core.errors import UserError
from twhin_core.progress import prefer_format


def recommend(
    run_root: RunRootPath,
    relation: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Recommend nodes at its rhs. Default: what the run's section `recommend` says."
        ),
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder or URL for the lists of --relation.")
    ] = None,
    k: Annotated[int | None, typer.Option("-k", metavar="N", help="Candidates per user. Default: 100.")] = None,
    users: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="File with the ids of the users. Default: all nodes of the lhs table."),
    ] = None,
    candidates: options.Candidates = None,
    candidates_id: options.CandidatesId = None,
    candidates_where: options.CandidatesWhere = None,
    candidates_timestamp: options.CandidatesTimestamp = None,
    max_age: options.MaxAge = None,
    min_degree: options.MinDegree = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RELATION", help="Leave out known edges of this relation. Repeatable. Default: --relation's."
        ),
    ] = None,
    exclude_edges: options.ExcludeEdges = None,
    rule: options.RuleName = None,
    fetch: options.Fetch = None,
    prior: options.Prior = None,
    index: Annotated[
        bool, typer.Option("--index", help="Search the exported faiss index instead of scoring every candidate.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write the best candidates of every user, without those that it has an edge to.

    A row has a user's id and its candidates, best first, each with its score. Under the run root, the lists are in
    `recommendations/<relation>/`.
    """
    from twhin_core.output import show
    from twhin_core.published import find_root
    from twhin_core.recommend.show import list_lists
    from twhin_core.run import saved_config
    from twhin_core.stages import recommend as stage

    settings = options.choice_settings(
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
    given = {"k": k, "users": users, "exclude": exclude, "index": index or None}
    settings |= {name: value for name, value in given.items() if value is not None}
    if relation is None:
        if settings or output is not None:
            raise UserError("name the relation: --relation")
        root = find_root(run_root)
        config = saved_config(root)
        prefer_format(config.runtime.log_format)
        made = stage.recommend(config, root)
        folders = {name: stage.folder_of(root, name) for name in made}
    else:
        if output is None:
            raise UserError("name the folder for the lists: --output")
        made = {relation: stage.recommend_once(run_root, relation, settings, output)}
        folders = {relation: output}
    show([list_lists(made, folders)], as_json)
