"""The pipeline's tasks on Kubeflow. Training on several machines is a TrainJob, which a separate task follows."""

from __future__ import annotations

from typing import Any

from kfp import dsl, kubernetes
from kfp.dsl.base_component import BaseComponent

from twhin.components.prepare.component import prepare
from twhin.components.task import configure
from twhin.components.train.check_component import check_cluster
from twhin.components.train.nodes_component import train as train_on_nodes
from twhin.pipelines import pod_checks, pods, trainjob
from twhin.pipelines.pipeline import Start
from twhin.pipelines.pod_section import Pod
from twhin.pipelines.resources import Resources, Stage, accelerator_of, refuse
from twhin.pipelines.run_root import check_shared
from twhin_core import storage
from twhin_core.errors import UserError


def check(resources: Resources, run_root: str | None) -> None:
    """Raises UserError for settings that Kubeflow does not support."""
    refuse_vertex(resources, "kubeflow")
    pod_checks.check(resources)
    for name, stage in resources.stages().items():
        if stage.service_account is not None and not stage.has_several_machines:
            raise UserError(
                f"{name}.service_account: on Kubeflow only the nodes of a TrainJob can have their own; set that of "
                "the run with `twhin submit --service-account`"
            )
    readers = resources.train.readers
    if readers is not None and "/" in readers.token:
        raise UserError(f"train.readers.token: {readers.token!r} is not the name of a Secret, which Kubeflow needs")
    if run_root is not None:
        check_root(resources, run_root)


def refuse_vertex(resources: Resources, target: str) -> None:
    """Raises UserError for settings that only Vertex AI has."""
    why = f"not supported on Kubeflow; leave it out for --target {target}"
    refuse(resources, ("vertex",), ("reservation", "disk_type"), why)


def check_root(resources: Resources, run_root: str) -> None:
    """Raises UserError if the pods do not share the run root."""
    if not storage.is_remote(run_root):
        mounts = [] if resources.volume is None else [resources.volume.mount]
        check_shared(run_root, "kubeflow", mounts, has_nodes=resources.train.has_several_machines)


def start(resources: Resources) -> Start:
    """Makes tasks for Kubeflow."""

    def start_task(component: BaseComponent, **inputs: Any) -> dsl.PipelineTask:
        stage = resources.stages()[component.name]
        if stage.has_several_machines:
            task = _follower(train_on_nodes(manifests=trainjob.manifests(resources), **inputs), resources)
        else:
            task = component(**inputs)
            pod = resources.pod_of(stage)
            _place(task, stage, pod)
            _give(task, stage, pod, resources)
        if component is prepare and resources.train.has_several_machines:
            of_run = {name: inputs[name] for name in ("run_root", "run")}
            checked = _follower(check_cluster(manifests=trainjob.manifests(resources), **of_run), resources)
            task.after(configure(checked))
        return task

    return start_task


def _follower(task: dsl.PipelineTask, resources: Resources) -> dsl.PipelineTask:
    """Configures a task that only talks to the cluster."""
    task.set_cpu_limit("1").set_memory_limit("2Gi")
    kubernetes.use_field_path_as_env(task, "TWHIN_NAMESPACE", "metadata.namespace")
    pod = resources.pod_of(resources.train)
    of_follower = pod.model_copy(update={"labels": pods.without_queue(pod.labels)})
    _give(task, resources.train, of_follower, resources)
    return task


def _place(task: dsl.PipelineTask, stage: Stage, pod: Pod) -> None:
    """Sets the pod's cores, memory, GPUs, disks, timeout and nodes."""
    task.set_cpu_limit(stage.cpu).set_memory_limit(stage.memory)
    if stage.requests.cpu is not None:
        task.set_cpu_request(stage.requests.cpu)
    if stage.requests.memory is not None:
        task.set_memory_request(stage.requests.memory)
    accelerator = accelerator_of(stage)
    if accelerator is not None:
        task.set_accelerator_type(pods.resource_of(accelerator)).set_accelerator_limit(accelerator.count)
    if pods.has_shared_memory(stage, pod):
        configure(task, shared_memory=pod.shm or True)
    if stage.disk is not None:
        kubernetes.empty_dir_mount(task, "scratch", pods.SCRATCH, size_limit=stage.disk)
    for volume in pod.volumes:
        kubernetes.mount_pvc(task, volume.claim, volume.mount, volume.sub_path)
    for label, value in pods.node_selector(stage).items():
        kubernetes.add_node_selector(task, label, value)
    for toleration in pods.tolerations(stage):
        kubernetes.add_toleration(task, **toleration)
    _prefer(task, pod)
    if stage.timeout_in_s is not None:
        kubernetes.set_timeout(task, stage.timeout_in_s)


def _prefer(task: dsl.PipelineTask, pod: Pod) -> None:
    """Sets the affinity to nodes. KFP makes one alternative of each call without a weight."""
    required = [pods.expression(rule) for rule in pod.affinity if rule.weight is None]
    if required:
        kubernetes.add_node_affinity(task, match_expressions=required)
    for rule in pod.affinity:
        if rule.weight is not None:
            kubernetes.add_node_affinity(task, match_expressions=[pods.expression(rule)], weight=rule.weight)


def _give(task: dsl.PipelineTask, stage: Stage, pod: Pod, resources: Resources) -> None:
    """Sets what every pod has: how it is described, environment variables, secrets and the shared volume."""
    _describe(task, stage, pod, resources)
    for name, value in resources.env.items():
        task.set_env_variable(name, value)
    for secret in resources.secrets:
        if secret.mount is not None:
            kubernetes.use_secret_as_volume(task, secret.name, secret.mount)
        if secret.env is not None:
            kubernetes.use_secret_as_env(task, secret.name, {key: name for name, key in secret.env.items()})
    if resources.volume is not None:
        kubernetes.mount_pvc(task, resources.volume.claim, resources.volume.mount)


def _describe(task: dsl.PipelineTask, stage: Stage, pod: Pod, resources: Resources) -> None:
    """Sets the pod's image, labels, annotations and user."""
    task.set_container_image(resources.image_of(stage))
    if pod.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, pod.image_pull_secrets)
    if pod.image_pull_policy is not None:
        kubernetes.set_image_pull_policy(task, pod.image_pull_policy)
    for key, value in pods.labels(pod, task.name).items():
        kubernetes.add_pod_label(task, key, value)
    for key, value in pod.annotations.items():
        kubernetes.add_pod_annotation(task, key, value)
    security = pod.security
    if security.non_root or security.user is not None or security.group is not None:
        kubernetes.set_security_context(task, security.user, security.group, security.non_root or None)
