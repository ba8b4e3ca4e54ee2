"""Commands on a series of versions: `refresh`, `versions`, `publish`, `rollback`, `forget`.

Each imports only what it needs.
"""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from twhin.pipelines.options import AsJson, ConfigPath, Overrides, SeriesPath
from twhin_core.progress import log


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
    """Print the versions of a series: size, headline metric, drift, and which is published or why it is not."""
    from twhin_core.output import show
    from twhin_core.series.retention import keep_newest
    from twhin_core.series.versions import list_series, list_versions

    if keep is not None:
        keep_newest(series, keep)
    show([list_series(series, list_versions(series))], as_json)


def refresh(
    config: ConfigPath,
    series: SeriesPath,
    keep: Annotated[
        int, typer.Option(min=0, max=1_000_000, metavar="N", help="How many of the newest versions to keep; 0: all.")
    ] = 7,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Prepare the files that are new, train the next version from the published one, and publish it.

    Without new files, nothing happens. A refresh that was stopped goes on where it was; one that failed, or missed a
    gate, leaves the version before published, and the next refresh takes its files too.
    """
    from twhin.pipelines import local
    from twhin_core.config import file as config_file
    from twhin_core.errors import GateFailed
    from twhin_core.output import show
    from twhin_core.published import list_ids, read_current, root_of
    from twhin_core.run import saved_config
    from twhin_core.series.continued import check_text
    from twhin_core.series.versions import list_series, list_versions, missed_gates

    text = config_file.read_text(config)
    check_text(text, overrides or (), config)
    local.run_refresh(text, series, keep, overrides or [], debug=log.isEnabledFor(logging.DEBUG))
    show([list_series(series, list_versions(series))], as_json)
    current, newest = read_current(series), list_ids(series)[-1]
    if current is None or current.version != newest:
        root = root_of(series, newest)
        raise GateFailed(f"version {newest} was not published: {'; '.join(missed_gates(root, saved_config(root)))}")


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


def forget(
    series: SeriesPath,
    table: Annotated[str, typer.Option(metavar="TABLE", help="The table of the nodes.")],
    ids: Annotated[
        str,
        typer.Option(metavar="FILE", help="The ids: one per line, or the column `id` of a Parquet, CSV or TSV file."),
    ],
    by: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who signs for it in the record. Default: the user's name.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Remove nodes from the published version of a series, and keep them out of later ones.

    Publishes a version without them in its place. Prints what was removed, and which older versions still hold them.
    The record under SERIES/forgotten/ has salted hashes of the ids.
    """
    import getpass

    from twhin_core.output import show
    from twhin_core.series.forgotten import list_record
    from twhin_core.series.id_list import read_ids
    from twhin_core.stages.forget import forget

    record = forget(series, table, read_ids(ids), by or getpass.getuser())
    show(list_record(record), as_json)
