"""Node selectors and tolerations of a stage's pods."""

from __future__ import annotations

from twhin.pipelines.machines import GPUS
from twhin.pipelines.resources import Stage, accelerator_of

GPU = "nvidia.com/gpu"
GKE_GPU, GKE_SPOT = "cloud.google.com/gke-accelerator", "cloud.google.com/gke-spot"

SCRATCH = "/tmp"  # noqa: S108 -- a mount point, not a temporary file
"""Where `disk` is mounted: prepare and evaluate write temporary files there."""


def node_selector(stage: Stage) -> dict[str, str]:
    """Labels that a node must have."""
    accelerator, labels = accelerator_of(stage), stage.node_selector
    if labels is None:
        labels = {GKE_GPU: GPUS[accelerator.type].gke} if accelerator is not None else {}
    return {**labels, **({GKE_SPOT: "true"} if stage.spot else {})}


def tolerations(stage: Stage) -> list[dict[str, str]]:
    """Taints that a node may have."""
    found = [toleration.model_dump(exclude_none=True) for toleration in stage.tolerations]
    if stage.spot:
        found.append({"key": GKE_SPOT, "operator": "Equal", "value": "true", "effect": "NoSchedule"})
    return found
