"""Refuses what Kubeflow Pipelines or a TrainJob cannot tell Kubernetes about a pod."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from twhin.pipelines import pods
from twhin.pipelines.pod_section import Pod
from twhin.pipelines.resources import Readers, Resources, Stage, accelerator_of, refuse_keys
from twhin_core.errors import UserError

NO_FIELD = "Kubeflow Pipelines has no field for it; only {who} can have it; leave it out"
IN_RUNTIME = "a TrainJob cannot set it; set {field} in the TrainingRuntime that train.runtime names, and leave it out"
ONLY_NODES = ("topology", "runtime", "abandoned_after")


def check(resources: Resources) -> None:
    """Raises UserError for the first key of a pod that Kubeflow does not support."""
    for name, stage in resources.stages().items():
        pod = resources.pod_of(stage)
        key = _Keys(name, stage)
        refusals = _of_train_job(pod) if stage.has_several_machines else _of_task(pod)
        _raise_first(key, refusals)
        _check_volumes(resources, stage, pod, key)
        _check_image(resources, name, stage)
    train = resources.train
    if train.readers is not None:
        pod = resources.pod_of(train.readers)
        _check_volumes(resources, train.readers, pod, _Keys("train.readers", train.readers))
    if not train.has_several_machines:
        _refuse_of_nodes(resources)


def check_trial(resources: Resources) -> None:
    """Raises UserError for the first key that the Job of a sweep's trial, on a machine of the stage train, lacks."""
    train = resources.train
    _check_volumes(resources, train, resources.pod_of(train), _Keys("train", train))
    _check_image(resources, "train", train)
    _refuse_of_nodes(resources)


def _refuse_of_nodes(resources: Resources) -> None:
    why = "only a TrainJob has it: training with several nodes or readers"
    refuse_keys(resources.train, "train.", ONLY_NODES, why)


class _Keys:
    """Where the file sets a key of the section `pod`: in a stage, or for all of them."""

    def __init__(self, name: str, of: Stage | Readers) -> None:
        self._name, self._own = name, of.pod.model_fields_set

    def __call__(self, key: str) -> str:
        return f"{self._name}.pod.{key}" if key.partition(".")[0] in self._own else f"pod.{key}"


def _raise_first(key: _Keys, refusals: Iterator[tuple[str, str]]) -> None:
    for field, why in refusals:
        raise UserError(f"{key(field)}: {why}")


def _of_task(pod: Pod) -> Iterator[tuple[str, str]]:
    """What the pod of a task cannot have, and why."""
    if pod.priority_class is not None:
        yield "priority_class", NO_FIELD.format(who="readers, and a TrainJob through its TrainingRuntime,")
    nodes = NO_FIELD.format(who="the nodes of a TrainJob and readers")
    if pod.security.read_only:
        yield "security.read_only", nodes
    if pod.security.seccomp is not None:
        yield "security.seccomp", nodes
    for index, volume in enumerate(pod.volumes):
        if volume.host_path is not None:
            yield f"volumes.{index}.host_path", nodes
        if volume.read_only:
            yield f"volumes.{index}.read_only", nodes


def _of_train_job(pod: Pod) -> Iterator[tuple[str, str]]:
    """What the nodes of a TrainJob cannot have, and why."""
    if pod.priority_class is not None:
        yield "priority_class", IN_RUNTIME.format(field="priorityClassName")
    if pod.image_pull_policy is not None:
        yield "image_pull_policy", IN_RUNTIME.format(field="imagePullPolicy")


def _check_volumes(resources: Resources, of: Stage | Readers, pod: Pod, key: _Keys) -> None:
    for index, volume in enumerate(pod.volumes):
        if volume.host_path is not None and not resources.allow_host_path:
            raise UserError(
                f"{key(f'volumes.{index}.host_path')}: it gives the pods access to a folder of the node; "
                "set allow_host_path: true if that is meant"
            )
    mounts = Counter(mount["mountPath"].rstrip("/") for _, mount in pods.volumes(resources, of, pod))
    for path, count in mounts.items():
        if count > 1:
            raise UserError(f"{key('volumes')}: {path} has {count} mounts")


def _check_image(resources: Resources, name: str, stage: Stage) -> None:
    accelerator = accelerator_of(stage)
    if accelerator is None or stage.image or resources.image:
        return
    resource = pods.resource_of(accelerator)
    if not resource.startswith("nvidia.com/"):
        raise UserError(f"{name}.image: our image has CUDA only; name one for {resource}")
