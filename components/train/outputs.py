"""The outputs of both train components."""

from __future__ import annotations

from typing import Any

from twhin.components import summary as summaries
from twhin.components.step import publish, report
from twhin_core import storage
from twhin_core.checkpoints import checkpoint as checkpoints


def publish_run(run_root: str, checkpoint: Any, metrics: Any, summary: Any) -> None:
    """Fills the artifacts from a run root where training has finished."""
    newest = checkpoints.newest(run_root)
    assert newest is not None
    publish(checkpoint, storage.join(run_root, "config.yaml"), uri=newest.url)
    checkpoint.metadata["step"] = newest.step
    report(metrics, summaries.training_figures(run_root), summary, summaries.training_text(run_root))
