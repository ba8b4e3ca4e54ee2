"""The manifests for training on several machines: a TrainJob of Kubeflow Trainer, and its readers if there are any.

They are an input of the task that creates them (`components/train/nodes_component.py`), so that the compiled pipeline
shows what will run, except for `{name}` and `{run_root}`, which are known at run time. `deploy/` has the objects that
the namespace needs. A trial of a sweep is a Job like that of the readers.
"""

from __future__ import annotations

from typing import Any

from twhin.pipelines import pods
from twhin.pipelines.pod_section import Placement, Pod, Topology
from twhin.pipelines.resources import Readers, Resources, Stage, TrainStage, accelerator_of, in_seconds
from twhin_core.heartbeat import ABANDONED_AFTER

Spec = dict[str, Any]

RUNTIME = {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime"}
"""deploy/training-runtime.yaml. A failed node ends the job; the pipeline's retries start a new one."""
NODE = "node"
"""Kubeflow Trainer's name for the trainers' job and container."""
COMMAND = ["twhin", "launch", "train", "{run_root}/config.yaml", "--run-root", "{run_root}"]
"""The train task writes the resolved config there."""
TRAINERS = {"jobset.sigs.k8s.io/jobset-name": "{name}", "jobset.sigs.k8s.io/replicatedjob-name": NODE}
READERS = {"batch.kubernetes.io/job-name": "{name}-readers"}
"""Labels that Kubernetes' controllers give the pods of the nodes, and of the readers."""
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
    own = resources.pod_of(train)
    pod = {
        **_pod(resources, train, own, pods.affinity(own.affinity, train.topology, TRAINERS)),
        "terminationGracePeriodSeconds": GRACE,
        "containers": [{"name": NODE, **_container(resources, train, own)}],
    }
    labels = pods.labels(own, "train")
    annotations = {"annotations": own.annotations} if own.annotations else {}
    of_pods = {"labels": pods.without_queue(labels), **annotations}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": "{name}", "labels": labels, **annotations},
        "spec": {
            "runtimeRef": {**RUNTIME, "name": train.runtime},
            **({"activeDeadlineSeconds": train.timeout_in_s} if train.timeout_in_s else {}),
            "trainer": {
                "image": resources.image_of(train),
                "command": COMMAND,
                "numNodes": train.nodes,
                "numProcPerNode": accelerator.count if accelerator is not None else 1,
                "resourcesPerNode": _amounts(train),
                "env": [*_env(resources, _followed(train)), *more_env],
            },
            "runtimePatches": [_patch({"metadata": of_pods, "spec": pod})],
        },
    }


def _patch(pod_template: Spec) -> Spec:
    """A change to the TrainingRuntime: that of the nodes' pods."""
    jobs = [{"name": NODE, "template": {"spec": {"template": pod_template}}}]
    spec = {"template": {"spec": {"replicatedJobs": jobs}}}
    return {"manager": "twhin.pipeline/compile", "trainingRuntimeSpec": spec}


def _service() -> Spec:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "{name}-readers"},
        "spec": {
            "clusterIP": "None",
            "selector": READERS,
            "ports": [{"name": "edges", "port": READER_PORT}],
        },
    }


def _reader_job(resources: Resources, readers: Readers) -> Spec:
    """An indexed Job, whose pods have stable host names. It is deleted with the TrainJob, which owns it."""
    own = resources.pod_of(readers)
    bind = [_variable("TWHIN_TASK_TYPE", "reader"), _variable("TWHIN_BIND", f"0.0.0.0:{READER_PORT}")]
    container = {
        "name": "reader",
        "image": resources.image_of(resources.train.model_copy(update={"accelerator": None})),
        "command": COMMAND,
        "env": [*_env(resources, _followed(resources.train)), *bind, _token(readers)],
        "ports": [{"name": "edges", "containerPort": READER_PORT}],
        "resources": _amounts(readers),
    }
    affinity = pods.affinity(own.affinity, readers.topology, READERS)
    pod = {
        **_plain_pod(resources, readers, own, affinity, container),
        "subdomain": "{name}-readers",
        "restartPolicy": "OnFailure",
    }
    spec = {
        "completionMode": "Indexed",
        "completions": readers.count,
        "parallelism": readers.count,
        "backoffLimit": 1000,  # lost readers are replaced; training ends by itself if all are lost
    }
    return _job({"name": "{name}-readers"}, spec, own, "readers", pod)


def trial_job(resources: Resources, name: str, command: list[str]) -> Spec:
    """A Job whose container `name` runs a command on a machine of the stage train: a trial of a sweep."""
    train = resources.train
    own = resources.pod_of(train)
    container = {
        "name": name,
        "image": resources.image_of(train),
        "command": command,
        "env": _env(resources, {}),
        "resources": _amounts(train),
    }
    affinity = pods.affinity(own.affinity, Topology(), {})  # machines of different trials need not be near each other
    pod = {**_plain_pod(resources, train, own, affinity, container), "restartPolicy": "Never"}
    # Katib adds a container whose image runs as root, which the pod must not refuse.
    (ours,) = pod["containers"]
    ours["securityContext"] = {**pod.pop("securityContext"), **ours["securityContext"]}
    deadline = {"activeDeadlineSeconds": train.timeout_in_s} if train.timeout_in_s else {}
    return _job({}, {"backoffLimit": train.retries, **deadline}, own, "trial", pod)


def _job(metadata: Spec, spec: Spec, own: Pod, component: str, pod: Spec) -> Spec:
    """A Job, of no TrainJob, whose pods have the spec `pod`."""
    labels = pods.labels(own, component)
    annotations = {"annotations": own.annotations} if own.annotations else {}
    of_pods = {"labels": {**NO_SIDECAR, **pods.without_queue(labels)}, **annotations}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**metadata, "labels": labels, **annotations},
        "spec": {**spec, "template": {"metadata": of_pods, "spec": pod}},
    }


def _plain_pod(resources: Resources, of: Placement, own: Pod, affinity: Spec, container: Spec) -> Spec:
    """The spec of a pod of a Job, with one container."""
    policy = {"imagePullPolicy": own.image_pull_policy} if own.image_pull_policy is not None else {}
    return {
        **_pod(resources, of, own, affinity),
        **({"priorityClassName": own.priority_class} if own.priority_class is not None else {}),
        "containers": [{**container, **policy, **_container(resources, of, own)}],
    }


def _pod(resources: Resources, of: Placement, own: Pod, affinity: Spec) -> Spec:
    """The pod's spec, without containers and empty fields."""
    spec = {
        "serviceAccountName": resources.train.service_account,
        "imagePullSecrets": [{"name": name} for name in own.image_pull_secrets],
        "nodeSelector": pods.node_selector(of),
        "tolerations": pods.tolerations(of),
        "affinity": affinity,
        "securityContext": pods.pod_security(own.security),
        "volumes": [volume for volume, _ in pods.volumes(resources, of, own)],
    }
    return {key: value for key, value in spec.items() if value}


def _container(resources: Resources, of: Placement, own: Pod) -> Spec:
    """What the container of a pod of `_pod` has."""
    return {
        "securityContext": pods.container_security(own.security),
        "volumeMounts": [mount for _, mount in pods.volumes(resources, of, own)],
    }


def _followed(train: TrainStage) -> dict[str, str]:
    """The variable by which machines end once nobody follows them."""
    return {ABANDONED_AFTER: str(in_seconds(train.abandoned_after))}


def _env(resources: Resources, more: dict[str, str]) -> list[Spec]:
    secrets = [
        _from_secret(name, secret.name, key) for secret in resources.secrets for name, key in (secret.env or {}).items()
    ]
    home = {"HOME": pods.SCRATCH}  # libraries keep caches there, and the image's home may be read-only
    return [_variable(name, value) for name, value in {**home, **more, **resources.env}.items()] + secrets


def _variable(name: str, value: str) -> Spec:
    return {"name": name, "value": value}


def _from_secret(name: str, secret: str, key: str) -> Spec:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _token(readers: Readers) -> Spec:
    return _from_secret("TWHIN_READER_TOKEN", readers.token, TOKEN_KEY)


def _amounts(of: Stage | Readers) -> Spec:
    accelerator = accelerator_of(of)
    gpus = {pods.resource_of(accelerator): str(accelerator.count)} if accelerator is not None else {}
    return {"limits": {"cpu": of.cpu, "memory": of.memory, **gpus}, "requests": {**of.requested, **gpus}}
