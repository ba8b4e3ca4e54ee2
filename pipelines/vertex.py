"""The pipeline's tasks on Vertex AI.

A stage that asks only for cores and memory is a plain task, for which Vertex AI picks a machine. Any other stage is a
CustomJob: the chief is in pool 0, further nodes in pool 1 and readers in pool 2, all with the same command, since each
machine finds its role in CLUSTER_SPEC (`twhin_core/distributed/nodes.py`).
"""

from __future__ import annotations

import math
from typing import Any

from google_cloud_pipeline_components.v1.custom_job import create_custom_training_job_from_component
from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from twhin.pipelines.machines import Machine, in_gib, pick
from twhin.pipelines.pipeline import Start
from twhin.pipelines.resources import Resources, Stage, TrainStage, accelerator_of, gpu_of, refuse, refuse_keys
from twhin.pipelines.run_root import check_shared
from twhin.pipelines.vertex_section import Vertex
from twhin_core import storage
from twhin_core.errors import UserError
from twhin_core.stores.interface import scheme_of

Spec = dict[str, Any]

SERVICE_ACCOUNT = "{{$.pipeline_service_account}}"
"""Vertex AI replaces it by the account of the run. Without it, a CustomJob uses a different account."""
READER_PORT = 2222
"""The port that Vertex AI opens between the machines of a CustomJob and lists in CLUSTER_SPEC."""
GCS = "/gcs/"
"""Where the machines of a CustomJob mount buckets."""
DISK = 100
"""Default size of a boot disk, in GiB. The CUDA image takes about 20."""
KUBERNETES = ("requests", "node_selector", "tolerations", "pod", "topology", "runtime", "abandoned_after")
"""Keys of a stage, or of readers, that only Kubernetes understands."""
WEEK = 7 * 86400
"""Default timeout of a CustomJob, in seconds: that of Vertex AI."""


def check(resources: Resources, run_root: str | None) -> None:
    """Raises UserError for settings that Vertex AI does not support."""
    if run_root is not None and not storage.is_remote(run_root):
        check_shared(run_root, "vertex")
    why = "not supported on Vertex AI; leave it out for --target vertex"
    refuse(resources, ("secrets", "volume", "pod", "allow_host_path"), KUBERNETES, why)
    readers = resources.train.readers
    if readers is not None:
        refuse_keys(readers, "train.readers.", KUBERNETES, why)
    for name, stage in resources.stages().items():
        accelerator = accelerator_of(stage)
        if accelerator is not None and accelerator.resource is not None:
            raise UserError(f"{name}.accelerator.resource: {why}, and set accelerator.type")
        _check_disk(name, stage)
        if _is_custom_job(stage, resources):
            _machine(name, stage)
    if readers is not None:
        pick(readers.cpu, readers.memory, None, "train.readers")
        if scheme_of(readers.token) != "gs":
            raise UserError(f"train.readers.token: {readers.token!r} is not a gs:// file, which Vertex AI needs")


def start(resources: Resources) -> Start:
    """Makes tasks for Vertex AI."""

    def start_task(component: BaseComponent, **inputs: Any) -> dsl.PipelineTask:
        stage = resources.stages()[component.name]
        if "run" in inputs:
            inputs["run"] = dsl.PIPELINE_JOB_NAME_PLACEHOLDER  # Vertex AI's id of a run
        if _is_custom_job(stage, resources):
            return _custom_job(component, stage, resources)(**inputs)
        task = component(**inputs).set_container_image(resources.image_of(stage))
        task.set_cpu_limit(stage.cpu).set_memory_limit(stage.memory)
        for name, value in resources.env.items():
            task.set_env_variable(name, value)
        return task

    return start_task


def _check_disk(name: str, stage: Stage) -> None:
    """Raises UserError if the machines do not support the type of their boot disk."""
    supported = _disk_type(stage.model_copy(update={"disk_type": None}))
    if _is_hyperdisk(stage.disk_type or supported) != _is_hyperdisk(supported):
        what = "no hyperdisks" if _is_hyperdisk(stage.disk_type or "") else f"only {supported}"
        raise UserError(f"{name}.disk_type: these machines of Vertex AI support {what}")


def _disk_type(stage: Stage) -> str:
    gpu = gpu_of(accelerator_of(stage))
    return stage.disk_type or (gpu.disk if gpu is not None else "pd-ssd")


def _is_hyperdisk(kind: str) -> bool:
    return kind.startswith("hyperdisk")


def _is_custom_job(stage: Stage, resources: Resources) -> bool:
    more = (stage.disk, stage.disk_type, stage.reservation, stage.timeout, stage.service_account, accelerator_of(stage))
    return (
        stage.spot or stage.has_several_machines or any(key is not None for key in more) or resources.vertex != Vertex()
    )


def _custom_job(component: BaseComponent, stage: Stage, resources: Resources) -> BaseComponent:
    """A component with the same inputs and outputs that creates a CustomJob."""
    job = create_custom_training_job_from_component(
        component,
        display_name=f"twhin-{component.name}",
        timeout=f"{stage.timeout_in_s or WEEK}s",
        # A single machine that restarts would wait for ranks that have ended.
        restart_job_on_worker_restart=stage.spot or stage.has_several_machines,
        service_account=stage.service_account or SERVICE_ACCOUNT,
        strategy="SPOT" if stage.spot else "STANDARD",
        **_of_all_jobs(resources.vertex),
    )
    # That function supports only one kind of machine, with the component's image. Replace its default.
    pools = job.component_spec.inputs["worker_pool_specs"]
    pools.default = _pools(component.name, stage, resources, pools.default[0]["container_spec"])
    return job


def _of_all_jobs(vertex: Vertex) -> Spec:
    """The settings of every CustomJob, by the names of their parameters."""
    psc: Spec | None = None
    if vertex.network_attachment is not None:
        peerings = [
            {"domain": peering.domain, "target_project": peering.project, "target_network": peering.network}
            for peering in vertex.dns_peerings
        ]
        psc = {"network_attachment": vertex.network_attachment, "dns_peering_configs": peerings}
    return {
        "network": vertex.network or "",
        "reserved_ip_ranges": vertex.reserved_ip_ranges or None,
        "psc_interface_config": psc,
        "encryption_spec_key_name": vertex.encryption_key or "",
        "labels": vertex.labels or None,
    }


def _pools(name: str, stage: Stage, resources: Resources, container: Spec) -> list[Spec]:
    """The worker pools. `container` has the component's command and arguments."""
    machine, env = _machine(name, stage), resources.env
    if not isinstance(stage, TrainStage) or not stage.has_several_machines:
        return [_pool(1, machine, stage, resources, container, env)]
    if stage.readers is None:
        return [_pool(count, machine, stage, resources, container, env) for count in (1, stage.nodes - 1)]
    env = {**env, "TWHIN_READER_TOKEN_FILE": stage.readers.token.replace("gs://", GCS, 1)}
    trainers = [_pool(count, machine, stage, resources, container, env) for count in (1, stage.nodes - 1)]
    machine = pick(stage.readers.cpu, stage.readers.memory, None, f"{name}.readers")
    env = {**env, "TWHIN_BIND": f"0.0.0.0:{READER_PORT}"}
    reader = stage.model_copy(update={"accelerator": None, "reservation": None, "disk_type": None})
    return [*trainers, _pool(stage.readers.count, machine, reader, resources, container, env)]


def _pool(
    count: int, machine: Machine, stage: Stage, resources: Resources, container: Spec, env: dict[str, str]
) -> Spec:
    if count == 0:
        return {}  # keeps the numbers of the following pools
    accelerator = accelerator_of(stage)
    gpu = gpu_of(accelerator)
    gpus = {"accelerator_type": gpu.vertex, "accelerator_count": accelerator.count} if accelerator and gpu else {}
    return {
        "machine_spec": {"machine_type": machine.name, **gpus, **_reservation(stage)},
        "replica_count": count,
        "disk_spec": {
            "boot_disk_type": _disk_type(stage),
            "boot_disk_size_gb": math.ceil(in_gib(stage.disk)) if stage.disk else DISK,
        },
        "container_spec": {
            **container,
            "image_uri": resources.image_of(stage),
            "env": [{"name": key, "value": value} for key, value in env.items()],
        },
    }


def _reservation(stage: Stage) -> Spec:
    if stage.reservation is None:
        return {}
    kind = {"any": "ANY_RESERVATION", "none": "NO_RESERVATION"}.get(stage.reservation)
    if kind is not None:
        return {"reservation_affinity": {"reservation_affinity_type": kind}}
    named = {"key": "compute.googleapis.com/reservation-name", "values": [stage.reservation]}
    return {"reservation_affinity": {"reservation_affinity_type": "SPECIFIC_RESERVATION", **named}}


def _machine(name: str, stage: Stage) -> Machine:
    accelerator = accelerator_of(stage)
    gpu = (accelerator.type, accelerator.count) if accelerator and accelerator.type else None
    return pick(stage.cpu, stage.memory, gpu, name)


def trial_job(resources: Resources, command: list[str]) -> Spec:
    """The CustomJobSpec of a sweep's trials, each on a machine of the stage train."""
    train, of_all = resources.train, _of_all_jobs(resources.vertex)
    scheduling = {
        "timeout": f"{train.timeout_in_s or WEEK}s",
        "restart_job_on_worker_restart": train.spot,
        "strategy": "SPOT" if train.spot else "STANDARD",
    }
    networks = {key: of_all[key] for key in ("network", "reserved_ip_ranges", "psc_interface_config") if of_all[key]}
    return {
        "worker_pool_specs": _pools("train", train, resources, {"command": command}),
        "service_account": train.service_account or SERVICE_ACCOUNT,
        "scheduling": scheduling,
        **networks,
    }
