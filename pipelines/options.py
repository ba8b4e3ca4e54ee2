"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from twhin_core.errors import UserError

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="The config of the run, a YAML file or its URL.")]
SavedConfigPath = Annotated[
    str | None,
    typer.Argument(
        metavar="[CONFIG]", help="The config, a YAML file or its URL. Default: the one saved under --run-root."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object in place of tables.")]
RunRootPath = Annotated[
    str,
    typer.Argument(metavar="RUN_ROOT", help="Folder or URL of the run, or of a series: then its published version."),
]
SeriesPath = Annotated[str, typer.Argument(metavar="SERIES", help="Folder or URL of the series.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a value of the config. Repeatable."),
]

Candidates = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="File with the ids of the candidates. Default: all nodes of their table."),
]
CandidatesId = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Column of --candidates with their ids. Default: id.")
]
CandidatesWhere = Annotated[
    str | None,
    typer.Option(metavar="CONDITION", help="Only rows of --candidates for which this holds: `in_stock = true`."),
]
CandidatesTimestamp = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Column of --candidates with their time, for --max-age.")
]
MaxAge = Annotated[
    str | None,
    typer.Option(metavar="AGE", help="Only rows of --candidates that are this much older than the newest: 30d."),
]
MinDegree = Annotated[
    int | None, typer.Option(metavar="N", help="Only candidates with at least N training edges of the relation.")
]
ExcludeEdges = Annotated[
    str | None, typer.Option(metavar="FILE", help="Parquet file of more pairs to leave out: columns lhs and rhs.")
]
RuleName = Annotated[
    str | None, typer.Option("--rule", metavar="NAME", help="Business rule of an installed package: drops candidates.")
]
Fetch = Annotated[int | None, typer.Option(metavar="N", help="How many candidates --rule is asked about.")]


Prior = Annotated[
    float | None,
    typer.Option(
        metavar="WEIGHT",
        help="Weight of the popularity prior in scores: 0 leaves it out. Default: as exported, or else as trained.",
    ),
]


def choice_settings(
    candidates: str | None,
    candidates_id: str | None,
    candidates_where: str | None,
    candidates_timestamp: str | None,
    max_age: str | None,
    min_degree: int | None,
    exclude_edges: str | None,
    rule: str | None,
    fetch: int | None,
    prior: float | None,
) -> dict[str, Any]:
    """What these options say, as keys of the section `recommend`. Raises UserError if one needs another."""
    catalog = _given(id=candidates_id, where=candidates_where, timestamp=candidates_timestamp, max_age=max_age)
    if catalog and candidates is None:
        option = "--max-age" if "max_age" in catalog else f"--candidates-{next(iter(catalog))}"
        raise UserError(f"{option} chooses from a file: --candidates")
    if (rule is None) != (fetch is None):
        raise UserError("--rule and --fetch go together: a rule, and how many candidates it is asked about")
    return _given(
        candidates={"path": candidates, **catalog} if catalog else candidates,
        min_degree=min_degree,
        exclude_edges=exclude_edges,
        rule=None if rule is None else {"name": rule, "fetch": fetch},
        prior=prior,
    )


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
