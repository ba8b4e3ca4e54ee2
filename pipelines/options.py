"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="The config of the run, a YAML file or gs:// URL.")]
RunRootPath = Annotated[str, typer.Argument(metavar="RUN_ROOT", help="Folder or gs:// prefix of the run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a value of the config. Repeatable."),
]
