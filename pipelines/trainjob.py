"""The manifests for training on several machines: a TrainJob of Kubeflow Trainer, and its readers if there are any.

They are an input of the task that creates them (`components/train/nodes_component.py`), so that the compiled pipeline
shows what will run, except for `{name}` and `{run_root}`, which are known at run time. `deploy/` has the objects that
the namespace needs.
"""

from __future__ import annotations

from typing import Any

from twhin.components.task import SHARED_MEMORY
from twhin.pipelines import pods
from twhin.pipelines.resources import Readers, Resources, Stage, accelerator_of

Spec = dict[str, Any]

RUNTIME = {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": "twhin"}
"""deploy/training-runtime.yaml. A failed node ends the job; the pipeline's retries start a new one."""
NODE = "node"
"""Kubeflow Trainer's name for the trainers' job and container."""
COMMAND = ["twhin", "launch", "train", "{run_root}/config.yaml", "--run-root", "{run_root}"]
"""The train task writes the resolved config there."""
READER_PORT = 2222
TOKEN_KEY = "token"  # noqa: S105 -- the name of the key of a Secret
NO_SIDECAR = {"sidecar.istio.io/inject": "false"}
"""Keeps the readers, like the nodes (deploy/training-runtime.yaml), out of a profile's service mesh, which would block
the trainers."""
GRACE = 600
"""Seconds from SIGTERM to SIGKILL, in which a node writes its last checkpoint."""


def manifests(resources: Resources) -> list[Spec]:
    """The TrainJob and, for readers, a Service that gives their pods host names and a Job."""
    train = resources.train
    if train.readers is None:
        return [_train_job(resources, [])]
    hosts = [f"{{name}}-readers-{index}.{{name}}-readers" for index in range(train.readers.count)]
    addresses = ",".join(f"{host}:{READER_PORT}" for host in hosts)
    env = [_variable("TWHIN_READERS", addresses), _token(train.readers)]
    return [_train_job(resources, env), _service(), _reader_job(resources, train.readers)]


def _train_job(resources: Resources, more_env: list[Spec]) -> Spec:
    train, accelerator = resources.train, accelerator_of(resources.train)
    gpus = {pods.GPU: str(accelerator.count)} if accelerator is not None else {}
    pod = _pod(resources, train)
    patch = {**pod, "terminationGracePeriodSeconds": GRACE}
    mounts = [mount for _, mount in _volumes(resources, train)]
    if mounts:
        patch["containers"] = [{"name": NODE, "volumeMounts": mounts}]
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": "{name}"},
        "spec": {
            "runtimeRef": RUNTIME,
            **({"activeDeadlineSeconds": train.timeout_in_s} if train.timeout_in_s else {}),
            "trainer": {
                "image": resources.image_of(train),
                "command": COMMAND,
                "numNodes": train.nodes,
                "numProcPerNode": accelerator.count if accelerator is not None else 1,
                "resourcesPerNode": _limits({"cpu": train.cpu, "memory": train.memory, **gpus}),
                "env": _env(resources) + more_env,
            },
            "runtimePatches": [
                {
                    "manager": "twhin.pipeline/compile",
                    "trainingRuntimeSpec": {
                        "template": {
                            "spec": {
                                "replicatedJobs": [{"name": NODE, "template": {"spec": {"template": {"spec": patch}}}}]
                            }
                        }
                    },
                }
            ],
        },
    }


def _service() -> Spec:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "{name}-readers"},
        "spec": {
            "clusterIP": "None",
            "selector": {"batch.kubernetes.io/job-name": "{name}-readers"},
            "ports": [{"name": "edges", "port": READER_PORT}],
        },
    }


def _reader_job(resources: Resources, readers: Readers) -> Spec:
    """An indexed Job, whose pods have stable host names. It is deleted with the TrainJob, which owns it."""
    on_any_node: Spec = {"accelerator": None, "disk": None, "node_selector": None, "tolerations": [], "spot": False}
    stage = resources.train.model_copy(update=on_any_node)
    bind = [_variable("TWHIN_TASK_TYPE", "reader"), _variable("TWHIN_BIND", f"0.0.0.0:{READER_PORT}")]
    container = {
        "name": "reader",
        "image": resources.image_of(stage),
        "command": COMMAND,
        "env": [*_env(resources), *bind, _token(readers)],
        "ports": [{"name": "edges", "containerPort": READER_PORT}],
        "resources": _limits({"cpu": readers.cpu, "memory": readers.memory}),
        "volumeMounts": [mount for _, mount in _volumes(resources, stage)],
    }
    pod = {
        **_pod(resources, stage),
        "subdomain": "{name}-readers",
        "restartPolicy": "OnFailure",
        "containers": [container],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "{name}-readers"},
        "spec": {
            "completionMode": "Indexed",
            "completions": readers.count,
            "parallelism": readers.count,
            "backoffLimit": 1000,  # lost readers are replaced; training ends by itself if all are lost
            "template": {"metadata": {"labels": NO_SIDECAR}, "spec": pod},
        },
    }


def _pod(resources: Resources, stage: Stage) -> Spec:
    """The pod's spec, without containers and empty fields."""
    spec = {
        "serviceAccountName": stage.service_account,
        "nodeSelector": pods.node_selector(stage),
        "tolerations": pods.tolerations(stage),
        "volumes": [volume for volume, _ in _volumes(resources, stage)],
    }
    return {key: value for key, value in spec.items() if value}


def _volumes(resources: Resources, stage: Stage) -> list[tuple[Spec, Spec]]:
    """Each volume of a pod with its mount."""
    volumes: list[tuple[str, str, Spec]] = []
    if accelerator_of(stage) is not None:
        volumes.append(("shm", SHARED_MEMORY, {"emptyDir": {"medium": "Memory"}}))
    if stage.disk is not None:
        volumes.append(("scratch", pods.SCRATCH, {"emptyDir": {"sizeLimit": stage.disk}}))
    if resources.volume is not None:
        claim = {"persistentVolumeClaim": {"claimName": resources.volume.claim}}
        volumes.append(("run-root", resources.volume.mount, claim))
    for index, secret in enumerate(resources.secrets):
        if secret.mount is not None:
            volumes.append((f"secret-{index}", secret.mount, {"secret": {"secretName": secret.name}}))
    return [({"name": name, **source}, {"name": name, "mountPath": path}) for name, path, source in volumes]


def _env(resources: Resources) -> list[Spec]:
    secrets = [
        _from_secret(name, secret.name, key) for secret in resources.secrets for name, key in (secret.env or {}).items()
    ]
    return [_variable(name, value) for name, value in resources.env.items()] + secrets


def _variable(name: str, value: str) -> Spec:
    return {"name": name, "value": value}


def _from_secret(name: str, secret: str, key: str) -> Spec:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _token(readers: Readers) -> Spec:
    return _from_secret("TWHIN_READER_TOKEN", readers.token, TOKEN_KEY)


def _limits(quantities: dict[str, str]) -> Spec:
    return {"limits": quantities, "requests": quantities}
