"""Commands for those who operate runs: `status`, `clean`. Each imports only what it needs."""

from __future__ import annotations

from typing import Annotated

import typer

from twhin.pipelines.options import AsJson

RunRootOrSeries = Annotated[
    str, typer.Argument(metavar="RUN_ROOT", help="Folder or URL of a run, or of a series: then all versions.")
]


def status(
    run_root: Annotated[
        str,
        typer.Argument(
            metavar="RUN_ROOT", help="Folder or gs:// prefix of a run, of a series (all versions) or of a sweep."
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Print what goes on in a run: the state of each stage, how far it is, who works on it and since when.

    Only reads, so it can be called at any time and from any machine.
    """
    from twhin_core.output import show
    from twhin_core.run import is_sweep
    from twhin_core.stages.show_status import list_status
    from twhin_core.stages.status import read_status
    from twhin_core.tuning.status import read_sweep_status

    read = read_sweep_status if is_sweep(run_root) else read_status
    show(list_status(read(run_root), run_root), as_json)


def clean(
    run_root: RunRootOrSeries,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it. By default, nothing is removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what a run holds without need, how much that is, and what keeps the rest; with --yes, remove it.

    That is what killed processes have half-written, checkpoints older than the newest once training has finished, and
    graphs that no run uses. What any command still needs stays.
    """
    from twhin_core.output import show
    from twhin_core.stages.clean import clean, list_leftovers

    show([list_leftovers(clean(run_root, yes), run_root)], as_json)
