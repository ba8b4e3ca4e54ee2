"""The trackers that a config names."""

from __future__ import annotations

from twhin_core.config.tracking import Tracking
from twhin_core.tracking.tracker import Tracker


def open_trackers(settings: Tracking, root: str) -> list[Tracker]:
    """The trackers of the section, not connected yet.

    Raises:
        UserError: a library is missing, or a setting does not fit the machine or the run root.
    """
    found: list[Tracker] = []
    if settings.mlflow is not None:
        from twhin_core.tracking.mlflow import MLflow

        found.append(MLflow(settings.mlflow, settings.experiment))
    if settings.wandb is not None:
        from twhin_core.tracking.wandb import Wandb

        found.append(Wandb(settings.wandb, root))
    return found
