"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="The config of the run, a YAML file or gs:// URL.")]
SavedConfigPath = Annotated[
    str | None,
    typer.Argument(
        metavar="[CONFIG]", help="The config, a YAML file or gs:// URL. Default: the one saved under --run-root."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object in place of tables.")]
RunRootPath = Annotated[
    str,
    typer.Argument(
        metavar="RUN_ROOT", help="Folder or gs:// prefix of the run, or of a series: then its published version."
    ),
]
SeriesPath = Annotated[str, typer.Argument(metavar="SERIES", help="Folder or gs:// prefix of the series.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a value of the config. Repeatable."),
]
