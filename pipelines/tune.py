"""The command `twhin tune`."""

from __future__ import annotations

from typing import Annotated

import typer

from twhin.pipelines.options import AsJson, ConfigPath, Overrides


def tune(
    config: ConfigPath,
    run_root: Annotated[str, typer.Option(metavar="DIR", help="Folder of the sweep, on this machine.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Try the settings of the config's section `sweep`, and write the best as a config that is ready to run.

    Run the same command again to go on with a sweep that was stopped or killed.
    """
    from twhin_core.config import file as config_file
    from twhin_core.output import Column, Listing, show
    from twhin_core.tuning.page import list_trials
    from twhin_core.tuning.tune import tune as run_sweep

    found = run_sweep(config_file.load(config, overrides or ()), run_root)
    places = Listing(
        "files",
        "results",
        [Column("result"), Column("url")],
        [["best config", found.best], ["report", found.report]],
        as_pairs=True,
    )
    show([list_trials(found.study), places], as_json)
