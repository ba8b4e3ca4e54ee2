"""What a stage's pods are called and which nodes they run on, in Kubernetes' terms."""

from __future__ import annotations

from twhin.pipelines.machines import GPUS
from twhin.pipelines.resources import Stage, accelerator_of

GPU = "nvidia.com/gpu"
GKE_GPU, GKE_SPOT = "cloud.google.com/gke-accelerator", "cloud.google.com/gke-spot"

SCRATCH = "/tmp"  # noqa: S108 -- a mount point, no file of ours
"""Ranks of one machine exchange data there; in a container it holds 64 MB unless more is mounted."""


def labels(stage: str) -> dict[str, str]:
    """What the pods of a stage are found by; every task for Kubeflow has them, and none for another platform."""
    return {"app.kubernetes.io/name": "twhin", "app.kubernetes.io/component": stage}


def node_selector(stage: Stage) -> dict[str, str]:
    """The labels that a node must have."""
    accelerator, labels = accelerator_of(stage), stage.node_selector
    if labels is None:
        labels = {GKE_GPU: GPUS[accelerator.type].gke} if accelerator is not None else {}
    return {**labels, **({GKE_SPOT: "true"} if stage.spot else {})}


def tolerations(stage: Stage) -> list[dict[str, str]]:
    """The taints that a node may have."""
    found = [toleration.model_dump(exclude_none=True) for toleration in stage.tolerations]
    if stage.spot:
        found.append({"key": GKE_SPOT, "operator": "Equal", "value": "true", "effect": "NoSchedule"})
    return found
