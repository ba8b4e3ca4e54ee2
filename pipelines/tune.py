"""The commands of sweeps: `twhin tune`, and `trial` for platforms."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from twhin.components.run_root import fill_run_root
from twhin.pipelines.options import AsJson, ConfigPath, Overrides
from twhin_core.errors import UserError
from twhin_core.progress import prefer_format


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

    settings = config_file.load(config, overrides or ())
    prefer_format(settings.runtime.log_format)
    found = run_sweep(settings, run_root)
    places = Listing(
        "files",
        "results",
        [Column("result"), Column("url")],
        [["best config", found.best], ["report", found.report]],
        as_pairs=True,
    )
    show([list_trials(found.study), places], as_json)


def trial(
    context: typer.Context,
    run_root: Annotated[str, typer.Argument(metavar="RUN_ROOT", help="A run that `twhin prepare` made with a sweep.")],
    report: Annotated[Literal["katib", "vertex"], typer.Option(help="How the platform reads figures.")],
    name: Annotated[
        str | None, typer.Option(help="The name of the trial. Default: CLOUD_ML_TRIAL_ID, which Vertex AI sets.")
    ] = None,
    run: Annotated[str, typer.Option(help="The id of the pipeline run, which replaces {run} in RUN_ROOT.")] = "",
) -> None:
    """Train and measure one combination of a sweep under RUN_ROOT/trials/NAME, as a platform asks for it.

    The values follow as `--NAME=VALUE`, one for each key of the space that has several values.
    """
    from twhin_core.tuning.remote import TRIAL, report_to, run_trial

    name = name or os.environ.get(TRIAL)
    if not name:
        raise UserError(f"trial: needs a name; set --name, or {TRIAL} as Vertex AI does")
    given = {}
    for argument in context.args:
        option, separator, value = argument.partition("=")
        if not option.startswith("--") or not separator:
            raise UserError(f"trial: {argument}: expected --NAME=VALUE")
        given[option[2:]] = value
    run_trial(fill_run_root(run_root, run), name, given, report_to(report))
