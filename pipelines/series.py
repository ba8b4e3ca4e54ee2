"""Commands on a series of versions: `versions`, `publish`, `rollback`. Each imports only what it needs."""

from __future__ import annotations

from typing import Annotated

import typer

from twhin.pipelines.options import AsJson, SeriesPath


def versions(
    series: SeriesPath,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1_000_000,
            metavar="N",
            help="Remove all but the newest N versions, the published one, newer ones and those in use.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the versions of a series: their size, their MRR, and which is published or why it is not."""
    from twhin_core.output import show
    from twhin_core.series.retention import keep_newest
    from twhin_core.series.versions import list_series, list_versions

    if keep is not None:
        keep_newest(series, keep)
    show([list_series(series, list_versions(series))], as_json)


def publish(
    series: SeriesPath,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The version that readers shall get.")],
) -> None:
    """Make a version the one that readers of the series get, if it is exported and every gate passes.

    Readers see the version before or this one, never a mixture.
    """
    from twhin_core.series.publish import publish

    publish(series, version)


def rollback(
    series: SeriesPath,
    to: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="Default: the version that was published before the current one."),
    ] = None,
) -> None:
    """Make a version that was published earlier the published one again."""
    from twhin_core.series.publish import rollback

    rollback(series, to)
