"""What Kubernetes is told about a pod: its nodes, labels, security context, affinity and volumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twhin.components.task import SHARED_MEMORY
from twhin.pipelines.pod_section import NodeRule, Placement, Pod, PodVolume, Security, Topology
from twhin.pipelines.resources import Accelerator, Resources, Stage, accelerator_of, gpu_of

Spec = dict[str, Any]

GPU = "nvidia.com/gpu"
GKE_GPU, GKE_SPOT = "cloud.google.com/gke-accelerator", "cloud.google.com/gke-spot"
QUEUE = "kueue.x-k8s.io/"
"""Prefix of the labels by which Kueue finds a workload's queue and priority."""

SCRATCH = "/tmp"  # noqa: S108 -- a mount point, not a temporary file
"""Where `disk` is mounted: prepare and evaluate write temporary files there."""


def resource_of(accelerator: Accelerator) -> str:
    """The name of the nodes' resource."""
    return accelerator.resource or GPU


def node_selector(of: Placement) -> dict[str, str]:
    """Labels that a node must have."""
    gpu, labels = gpu_of(accelerator_of(of)), of.node_selector
    if labels is None:
        labels = {GKE_GPU: gpu.gke} if gpu is not None else {}
    return {**labels, **({GKE_SPOT: "true"} if _is_spot(of) else {})}


def tolerations(of: Placement) -> list[dict[str, str]]:
    """Taints that a node may have."""
    found = [toleration.model_dump(exclude_none=True) for toleration in of.tolerations]
    if _is_spot(of):
        found.append({"key": GKE_SPOT, "operator": "Equal", "value": "true", "effect": "NoSchedule"})
    return found


def _is_spot(of: Placement) -> bool:
    return isinstance(of, Stage) and of.spot


def labels(pod: Pod, component: str) -> dict[str, str]:
    """The labels of a pod of ours."""
    return {"app.kubernetes.io/name": "twhin", "app.kubernetes.io/component": component, **pod.labels}


def without_queue(found: Mapping[str, str]) -> dict[str, str]:
    """Labels for pods whose machines are asked for by another object: Kueue must not count them twice."""
    return {key: value for key, value in found.items() if not key.startswith(QUEUE)}


def affinity(rules: list[NodeRule], topology: Topology, peers: dict[str, str]) -> Spec:
    """The affinity to nodes, and to the pods with the labels `peers`; empty if there is none."""
    pairs = (("podAffinity", topology.together), ("podAntiAffinity", topology.apart))
    found = {kind: _peer_affinity(key, peers, topology.required) for kind, key in pairs if key is not None}
    return {**({"nodeAffinity": _node_affinity(rules)} if rules else {}), **found}


def _node_affinity(rules: list[NodeRule]) -> Spec:
    required = [expression(rule) for rule in rules if rule.weight is None]
    preferred = [
        {"weight": rule.weight, "preference": {"matchExpressions": [expression(rule)]}}
        for rule in rules
        if rule.weight is not None
    ]
    terms = {
        "requiredDuringSchedulingIgnoredDuringExecution": required
        and {"nodeSelectorTerms": [{"matchExpressions": required}]},
        "preferredDuringSchedulingIgnoredDuringExecution": preferred,
    }
    return {key: term for key, term in terms.items() if term}


def expression(rule: NodeRule) -> Spec:
    """A rule as Kubernetes' match expression."""
    values = {"values": rule.values} if rule.values else {}
    return {"key": rule.key, "operator": rule.operator, **values}


def _peer_affinity(key: str, peers: dict[str, str], required: bool) -> Spec:
    term = {"topologyKey": key, "labelSelector": {"matchLabels": peers}}
    if required:
        return {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    return {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}


def pod_security(security: Security) -> Spec:
    """The security context of a whole pod."""
    context = {
        "runAsNonRoot": security.non_root or None,
        "runAsUser": security.user,
        "runAsGroup": security.group,
        "seccompProfile": {"type": security.seccomp or "RuntimeDefault"},
    }
    return {key: value for key, value in context.items() if value is not None}


def container_security(security: Security) -> Spec:
    """The security context of a pod's container."""
    context: Spec = {"readOnlyRootFilesystem": security.read_only is not False}
    if security.non_root:
        context |= {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return context


def has_shared_memory(of: Placement, pod: Pod) -> bool:
    """Whether memory is mounted at /dev/shm."""
    return accelerator_of(of) is not None or pod.shm is not None


def volumes(resources: Resources, of: Placement, pod: Pod) -> list[tuple[Spec, Spec]]:
    """Each volume of a pod with its mount. One is always at /tmp, since the root file system may be read-only."""
    found: list[tuple[str, Spec, Spec]] = []
    if has_shared_memory(of, pod):
        size = {"sizeLimit": pod.shm} if pod.shm is not None else {}
        found.append(("shm", {"mountPath": SHARED_MEMORY}, {"emptyDir": {"medium": "Memory", **size}}))
    disk = of.disk if isinstance(of, Stage) else None
    if disk is not None or all(volume.mount != SCRATCH for volume in pod.volumes):
        size = {"sizeLimit": disk} if disk is not None else {}
        found.append(("scratch", {"mountPath": SCRATCH}, {"emptyDir": size}))
    if resources.volume is not None:
        claim = {"persistentVolumeClaim": {"claimName": resources.volume.claim}}
        found.append(("run-root", {"mountPath": resources.volume.mount}, claim))
    for index, secret in enumerate(resources.secrets):
        if secret.mount is not None:
            found.append((f"secret-{index}", {"mountPath": secret.mount}, {"secret": {"secretName": secret.name}}))
    for index, volume in enumerate(pod.volumes):
        found.append((f"volume-{index}", *_volume(volume)))
    return [({"name": name, **source}, {"name": name, **mount}) for name, mount, source in found]


def _volume(volume: PodVolume) -> tuple[Spec, Spec]:
    """The mount of a volume and its source."""
    mount: Spec = {"mountPath": volume.mount}
    if volume.sub_path:
        mount["subPath"] = volume.sub_path
    if volume.read_only:
        mount["readOnly"] = True
    if volume.host_path is not None:
        return mount, {"hostPath": {"path": volume.host_path, "type": "Directory"}}
    return mount, {"persistentVolumeClaim": {"claimName": volume.claim}}
