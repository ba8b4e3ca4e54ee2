"""Where a run of the pipeline lives: a root of its own for each run of a recurring one, below what machines share."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from twhin_core.errors import UserError

RUN = "{run}"
"""In a run root: stands for the id of the pipeline's run."""


def fill_run_root(run_root: str, run: str) -> str:
    """`run_root` with the id of the run in the place of `{run}`. Raises UserError where there is none."""
    if run.startswith("{{"):
        raise UserError(f"this Kubeflow Pipelines knows no id of a run: {run} came in its place; it takes version 2.5")
    if RUN in run_root and not run:
        raise UserError(f"{run_root}: only a run of the pipeline on a cluster has an id that {RUN} can stand for")
    return run_root.replace(RUN, run)


def is_below(run_root: str, folders: Iterable[str]) -> bool:
    """Whether a run root is a folder below one of these."""
    root = posixpath.normpath(run_root)
    return any(root.startswith(f"{posixpath.normpath(folder)}/") for folder in folders)
