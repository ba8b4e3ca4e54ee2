"""The pipeline's tasks on Kubeflow. Training on several machines is a TrainJob, which a separate task follows."""

from __future__ import annotations

from typing import Any

from kfp import dsl, kubernetes
from kfp.dsl.base_component import BaseComponent

from twhin.components.prepare.component import prepare
from twhin.components.task import configure
from twhin.components.train.check_component import check_cluster
from twhin.components.train.nodes_component import train as train_on_nodes
from twhin.pipelines import pods, trainjob
from twhin.pipelines.pipeline import Start
from twhin.pipelines.resources import Resources, Stage, accelerator_of
from twhin.pipelines.run_root import check_shared
from twhin_core import storage
from twhin_core.errors import UserError


def check(resources: Resources, run_root: str | None) -> None:
    """Raises UserError for settings that Kubeflow does not support."""
    for name, stage in resources.stages().items():
        if stage.service_account is not None and not stage.has_several_machines:
            raise UserError(
                f"{name}.service_account: on Kubeflow only the nodes of a TrainJob can have their own; set that of "
                "the run with `twhin submit --service-account`"
            )
    readers = resources.train.readers
    if readers is not None and "/" in readers.token:
        raise UserError(f"train.readers.token: {readers.token!r} is not the name of a Secret, which Kubeflow needs")
    if run_root is not None and not storage.is_remote(run_root):
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
            _place(task, stage)
            _give(task, stage, resources)
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
    _give(task, resources.train, resources)
    return task


def _place(task: dsl.PipelineTask, stage: Stage) -> None:
    """Sets the pod's cores, memory, GPUs, disk, timeout and nodes."""
    task.set_cpu_limit(stage.cpu).set_memory_limit(stage.memory)
    accelerator = accelerator_of(stage)
    if accelerator is not None:
        task.set_accelerator_type(pods.GPU).set_accelerator_limit(accelerator.count)
        configure(task, shared_memory=True)
    if stage.disk is not None:
        kubernetes.empty_dir_mount(task, "scratch", pods.SCRATCH, size_limit=stage.disk)
    for label, value in pods.node_selector(stage).items():
        kubernetes.add_node_selector(task, label, value)
    for toleration in pods.tolerations(stage):
        kubernetes.add_toleration(task, **toleration)
    if stage.timeout_in_s is not None:
        kubernetes.set_timeout(task, stage.timeout_in_s)


def _give(task: dsl.PipelineTask, stage: Stage, resources: Resources) -> None:
    """Sets the pod's image, labels, environment variables, secrets and volume."""
    task.set_container_image(resources.image_of(stage))
    kubernetes.add_pod_label(task, "app.kubernetes.io/name", "twhin")
    kubernetes.add_pod_label(task, "app.kubernetes.io/component", task.name)
    for name, value in resources.env.items():
        task.set_env_variable(name, value)
    for secret in resources.secrets:
        if secret.mount is not None:
            kubernetes.use_secret_as_volume(task, secret.name, secret.mount)
        if secret.env is not None:
            kubernetes.use_secret_as_env(task, secret.name, {key: name for name, key in secret.env.items()})
    if resources.volume is not None:
        kubernetes.mount_pvc(task, resources.volume.claim, resources.volume.mount)
