"""The run root of a pipeline run, including the placeholder that gives each recurring run its own root."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from twhin_core.errors import UserError

RUN = "{run}"
"""Placeholder in a run root for the id of the pipeline run."""


def fill_run_root(run_root: str, run: str) -> str:
    """Replaces `{run}` in `run_root` by the id of the run. Raises UserError if there is no id."""
    if run.startswith("{{"):
        raise UserError(f"Kubeflow Pipelines did not replace {run} by the run's id; upgrade it to version 2.5 or newer")
    if RUN in run_root and not run:
        raise UserError(f"{run_root}: {RUN} needs the id of a pipeline run on a cluster; name the folder instead")
    return run_root.replace(RUN, run)


def is_below(run_root: str, folders: Iterable[str]) -> bool:
    """Whether the run root is inside one of the folders."""
    root = posixpath.normpath(run_root)
    return any(root.startswith(f"{posixpath.normpath(folder)}/") for folder in folders)
