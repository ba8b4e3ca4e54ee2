"""What Kubernetes is told about pods: those of tasks, of the nodes of a TrainJob and of readers."""

from __future__ import annotations

import copy
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import strict
from tests.command_line import ROOT
from tests.pipelines.test_resources import compiled, file, write
from twhin.pipelines import kubeflow, pod_checks, resources, trainjob, vertex
from twhin.pipelines.pod_section import Pod
from twhin.pipelines.resources import Resources
from twhin_core.errors import UserError

__all__ = ["file"]

READERS = {"count": 2, "cpu": "2", "memory": "4Gi", "token": "twhin-readers"}
POD = {
    "labels": {"cost-center": "r42", "kueue.x-k8s.io/queue-name": "team-a"},
    "annotations": {"example.com/owner": "ada <ada@example.com>"},
    "image_pull_secrets": ["registry"],
    "shm": "8Gi",
    "affinity": [
        {"key": "topology.kubernetes.io/zone", "values": ["a", "b"]},
        {"key": "example.com/broken", "operator": "DoesNotExist"},
        {"key": "example.com/generation", "operator": "Gt", "values": ["3"], "weight": 20},
    ],
    "volumes": [{"claim": "cache", "mount": "/cache", "sub_path": "twhin"}],
    "security": {"user": 4000, "group": 4001},
}  # fmt: skip
RULES = [
    {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["a", "b"]},
    {"key": "example.com/broken", "operator": "DoesNotExist"},
]
PREFERRED = {"key": "example.com/generation", "operator": "Gt", "values": ["3"]}
NODE_AFFINITY = {
    "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": RULES}]},
    "preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 20, "preference": {"matchExpressions": [PREFERRED]}}
    ],
}


def manifests(file: Path, **changes: Any) -> list[Any]:
    """What the train task creates, after Kubernetes' own check."""
    created = [strict.as_created(manifest) for manifest in trainjob.manifests(resources.load(write(file, **changes)))]
    for manifest in created:
        strict.check_manifest(manifest)
    job = created[0]
    template = _template(job)
    # The schema of a TrainJob leaves out what Kubernetes itself would refuse in the pod.
    pod = {**copy.deepcopy(template["spec"]), "restartPolicy": "Never"}
    pod["containers"][0]["image"] = job["spec"]["trainer"]["image"]
    whole = {"metadata": template["metadata"], "spec": pod}
    strict.check_manifest(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "node"}, "spec": {"template": whole}}
    )
    return created


def _template(job: Any) -> Any:
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    return node["template"]["spec"]["template"]


def refused(file: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        pod_checks.check(resources.load(write(file, **changes)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_pods_of_tasks_get_what_kubeflow_pipelines_can_tell(file: Path) -> None:
    needs = {"requests": {"cpu": "500m", "memory": "2Gi"}, "pod": {**POD, "image_pull_policy": "Always"}}
    document, platform = compiled(file, "kubeflow", evaluate=needs)
    executor = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-evaluate"]
    own = {"app.kubernetes.io/name": "twhin", "app.kubernetes.io/component": "evaluate"}
    assert executor["podMetadata"] == {"labels": {**own, **POD["labels"]}, "annotations": POD["annotations"]}  # type: ignore[dict-item]
    assert [entry["secretName"] for entry in executor["imagePullSecret"]] == ["registry"]
    assert executor["imagePullPolicy"] == "Always"
    assert executor["emptyDirMounts"] == [
        {"volumeName": "shm", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "8Gi"}
    ]
    # One alternative that holds both rules: alternatives of one rule each would admit nodes where only one holds.
    assert executor["nodeAffinity"] == [
        {"matchExpressions": RULES},
        {"matchExpressions": [PREFERRED], "weight": 20},
    ]
    (mount,) = executor["pvcMount"]
    assert (mount["constant"], mount["mountPath"], mount["subPath"]) == ("cache", "/cache", "twhin")
    assert executor["securityContext"] == {"runAsUser": "4000", "runAsGroup": "4001", "runAsNonRoot": True}
    amounts = document["deploymentSpec"]["executors"]["exec-evaluate"]["container"]["resources"]
    assert (amounts["resourceCpuRequest"], amounts["resourceMemoryRequest"]) == ("500m", "2Gi")
    assert (amounts["resourceCpuLimit"], amounts["resourceMemoryLimit"]) == ("2", "4Gi")


def test_the_tasks_that_follow_a_train_job_wait_in_no_queue(file: Path) -> None:
    _, platform = compiled(file, "kubeflow", pod=POD, train={"nodes": 2})
    for name in ("exec-train", "exec-check-cluster"):
        executor = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][name]
        found = executor["podMetadata"]["labels"]
        assert found["cost-center"] == "r42"
        assert not [key for key in found if key.startswith("kueue")]
        assert executor["imagePullSecret"]
        assert "nodeAffinity" not in executor  # they take one core of any node


def test_a_train_job_and_its_readers_get_all_of_it(file: Path) -> None:
    reads = {
        **READERS, "node_selector": {"pool": "readers"}, "tolerations": [{"key": "reading", "operator": "Exists"}],
        "requests": {"memory": "3Gi"}, "topology": {"apart": "kubernetes.io/hostname", "required": False},
        "pod": {
            "priority_class": "low", "image_pull_policy": "Never", "security": {"read_only": False, "non_root": False},
            "labels": {"cost-center": "r43"}, "volumes": [{"host_path": "/mnt/nvme", "mount": "/tmp"}],
        },
    }  # fmt: skip
    train = {
        "nodes": 2, "runtime": "urgent", "requests": {"cpu": "1500m"}, "readers": reads,
        "topology": {"together": "topology.kubernetes.io/zone", "apart": "kubernetes.io/hostname"},
        "accelerator": {"resource": "nvidia.com/mig-1g.5gb"},
        "pod": {"volumes": [{"host_path": "/mnt/cache", "mount": "/cache", "read_only": True}]},
    }  # fmt: skip
    job, _, reading = manifests(file, pod=POD, train=train, allow_host_path=True)

    queue = {"kueue.x-k8s.io/queue-name": "team-a"}
    own = {"app.kubernetes.io/name": "twhin", "app.kubernetes.io/component": "train", "cost-center": "r42"}
    template = _template(job)
    pod = template["spec"]
    assert job["metadata"]["labels"] == {**own, **queue}
    assert template["metadata"] == {"labels": own, "annotations": POD["annotations"]}
    assert job["spec"]["runtimeRef"]["name"] == "urgent"
    gpu = {"nvidia.com/mig-1g.5gb": "1"}
    assert job["spec"]["trainer"]["resourcesPerNode"] == {
        "limits": {"cpu": "2", "memory": "4Gi", **gpu}, "requests": {"cpu": "1500m", "memory": "4Gi", **gpu},
    }  # fmt: skip
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert "nodeSelector" not in pod
    peers = {
        "jobset.sigs.k8s.io/jobset-name": "twhin-run-0123456789",
        "jobset.sigs.k8s.io/replicatedjob-name": "node",
    }
    assert pod["affinity"] == {
        "nodeAffinity": NODE_AFFINITY,
        "podAffinity": _required("topology.kubernetes.io/zone", peers),
        "podAntiAffinity": _required("kubernetes.io/hostname", peers),
    }
    assert pod["securityContext"] == {
        "runAsNonRoot": True, "runAsUser": 4000, "runAsGroup": 4001, "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    assert _mounts(pod) == {
        "/dev/shm": ({"emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}, False),
        "/tmp": ({"emptyDir": {}}, False),
        "/cache": ({"hostPath": {"path": "/mnt/cache", "type": "Directory"}}, True),
    }

    pod, labels = reading["spec"]["template"]["spec"], reading["metadata"]["labels"]
    assert labels == {**own, **queue, "app.kubernetes.io/component": "readers", "cost-center": "r43"}
    assert "kueue.x-k8s.io/queue-name" not in reading["spec"]["template"]["metadata"]["labels"]
    assert (pod["priorityClassName"], pod["nodeSelector"]) == ("low", {"pool": "readers"})
    assert [entry["key"] for entry in pod["tolerations"]] == ["reading"]
    (container,) = pod["containers"]
    assert container["imagePullPolicy"] == "Never"
    assert container["securityContext"] == {"readOnlyRootFilesystem": False}
    assert container["resources"]["requests"] == {"cpu": "2", "memory": "3Gi"}
    assert _mounts(pod)["/tmp"] == ({"hostPath": {"path": "/mnt/nvme", "type": "Directory"}}, False)
    (term,) = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert term["podAffinityTerm"]["labelSelector"]["matchLabels"] == reading_peers(job)


def reading_peers(job: Any) -> dict[str, str]:
    return {"batch.kubernetes.io/job-name": f"{job['metadata']['name']}-readers"}


def _required(key: str, peers: dict[str, str]) -> Any:
    term = {"topologyKey": key, "labelSelector": {"matchLabels": peers}}
    return {"requiredDuringSchedulingIgnoredDuringExecution": [term]}


def _mounts(pod: Any) -> dict[str, tuple[Any, bool]]:
    """The volume at each path, and whether it is read-only."""
    sources = {
        volume["name"]: {key: value for key, value in volume.items() if key != "name"} for volume in pod["volumes"]
    }
    (container,) = pod["containers"]
    return {
        mount["mountPath"]: (sources[mount["name"]], mount.get("readOnly", False))
        for mount in container["volumeMounts"]
    }


def test_nodes_and_readers_are_restricted_unless_asked_otherwise(file: Path) -> None:
    job, _, reading = manifests(file, train={"nodes": 2, "readers": READERS}, env={"LOG": "1"})
    for pod in (_template(job)["spec"], reading["spec"]["template"]["spec"]):
        # The three that Pod Security's `restricted` demands of a container, and one more.
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert pod["containers"][0]["securityContext"] == {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert _mounts(pod) == {"/tmp": ({"emptyDir": {}}, False)}
    for env in (job["spec"]["trainer"]["env"], reading["spec"]["template"]["spec"]["containers"][0]["env"]):
        assert {"name": "HOME", "value": "/tmp"} in env
    (job,) = manifests(file, train={"nodes": 2}, env={"HOME": "/data/home"})
    assert [entry["value"] for entry in job["spec"]["trainer"]["env"] if entry["name"] == "HOME"] == ["/data/home"]


@pytest.mark.parametrize(
    ("resource", "count", "selector"),
    [
        ("amd.com/gpu", 8, {"amd.com/gpu.product-name": "MI300X"}),
        ("nvidia.com/gpu", 4, {"nvidia.com/gpu.product": "NVIDIA-A10G"}),
        ("nvidia.com/mig-3g.40gb", 1, {}),
        ("example.com/a10g", 2, {}),
    ],
)
def test_any_resource_of_the_nodes_is_an_accelerator(
    file: Path, resource: str, count: int, selector: dict[str, str]
) -> None:
    accelerator = {"resource": resource, "count": count}
    image = f"registry/twhin@sha256:{'1' * 64}"
    (job,) = manifests(file, image=image, train={"nodes": 2, "accelerator": accelerator, "node_selector": selector})
    assert job["spec"]["trainer"]["resourcesPerNode"]["limits"][resource] == str(count)
    assert job["spec"]["trainer"]["numProcPerNode"] == count
    assert _template(job)["spec"].get("nodeSelector", {}) == selector


def test_the_pod_of_a_task_takes_any_resource_too(file: Path) -> None:
    document, platform = compiled(file, "kubeflow", evaluate={"accelerator": {"resource": "nvidia.com/mig-1g.5gb"}})
    found = document["deploymentSpec"]["executors"]["exec-evaluate"]["container"]["resources"]["accelerator"]
    assert (found["resourceType"], found["resourceCount"]) == ("nvidia.com/mig-1g.5gb", "1")
    assert "nodeSelector" not in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-evaluate"]


NODES = {"nodes": 2}
CACHE = {"host_path": "/mnt/cache", "mount": "/cache"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prepare": {"pod": {"priority_class": "high"}}}, "prepare.pod.priority_class: Kubeflow Pipelines"),
        ({"pod": {"priority_class": "high"}}, "pod.priority_class: Kubeflow Pipelines has no field"),
        ({"export": {"pod": {"security": {"read_only": True}}}}, "export.pod.security.read_only: Kubeflow Pipelines"),
        ({"pod": {"security": {"seccomp": "RuntimeDefault"}}}, "pod.security.seccomp: Kubeflow Pipelines has no field"),
        ({"evaluate": {"pod": {"volumes": [CACHE]}}}, "evaluate.pod.volumes.0.host_path: Kubeflow Pipelines"),
        (
            {"evaluate": {"pod": {"volumes": [{"claim": "c", "mount": "/c", "read_only": True}]}}},
            "evaluate.pod.volumes.0.read_only: Kubeflow Pipelines",
        ),
        ({"train": {**NODES, "pod": {"priority_class": "high"}}}, "train.pod.priority_class: a TrainJob cannot set it"),
        ({"train": {**NODES, "pod": {"image_pull_policy": "Always"}}}, "train.pod.image_pull_policy: a TrainJob"),
        ({"train": {**NODES, "pod": {"volumes": [CACHE]}}}, "train.pod.volumes.0.host_path: it gives the pods access"),
        (
            {"train": {"readers": {**READERS, "pod": {"volumes": [CACHE]}}}},
            "train.readers.pod.volumes.0.host_path: it gives the pods access",
        ),
        (
            {"train": {**NODES, "disk": "9Gi", "pod": {"volumes": [{"claim": "c", "mount": "/tmp/"}]}}},
            "train.pod.volumes: /tmp has 2 mounts",
        ),
        ({"train": {"topology": {"apart": "zone"}}}, "train.topology: only a TrainJob has it"),
        ({"train": {"runtime": "mine"}}, "train.runtime: only a TrainJob has it"),
        ({"train": {"abandoned_after": "5m"}}, "train.abandoned_after: only a TrainJob has it"),
        ({"train": {"accelerator": {"resource": "amd.com/gpu"}}}, "train.image: our image has CUDA only; name one"),
    ],
)  # fmt: skip
def test_what_kubeflow_cannot_tell_about_a_pod_is_refused(file: Path, changes: Any, said: str) -> None:
    assert refused(file, **changes).startswith(said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": {"requests": {"cpu": "2500m"}}}, "train.requests.cpu: 2500m is more than the limit, 2"),
        ({"train": {"requests": {"memory": "5Gi"}}}, "train.requests.memory: 5Gi is more than the limit, 4Gi"),
        ({"pod": {"labels": {"no spaces": "a"}}}, "pod.labels.no spaces"),
        ({"pod": {"labels": {"a": "x" * 64}}}, "pod.labels.a"),
        ({"pod": {"affinity": [{"key": "a"}]}}, "pod.affinity.0.values: In needs at least one value, got 0"),
        ({"pod": {"affinity": [{"key": "a", "operator": "Exists", "values": ["b"]}]}}, "Exists needs no values, got 1"),
        ({"pod": {"affinity": [{"key": "a", "operator": "Lt", "values": ["1", "2"]}]}}, "Lt needs one value, got 2"),
        ({"pod": {"affinity": [{"key": "a", "values": ["b"], "weight": 101}]}}, "pod.affinity.0.weight"),
        ({"pod": {"volumes": [{"mount": "/a"}]}}, "pod.volumes.0: needs exactly one of claim, host_path"),
        ({"pod": {"security": {"user": 0}}}, "pod.security.user: 0 is root"),
        ({"train": {"accelerator": {"count": 2}}}, "train.accelerator: needs exactly one of type, resource; got none"),
        (
            {"train": {"accelerator": {"type": "l4", "resource": "nvidia.com/gpu"}}},
            "train.accelerator: needs exactly one of type, resource; got type, resource",
        ),
        (
            {"train": {"accelerator": {"resource": "nvidia.com/mig-1g.5gb", "count": 2}}},
            "train.accelerator.count: CUDA finds one MIG slice per machine, not 2",
        ),
        ({"train": {"accelerator": {"resource": "a b"}}}, "train.accelerator.resource"),
        ({"train": {"abandoned_after": "179s"}}, "train.abandoned_after: 179s is less than 3m"),
    ],
)  # fmt: skip
def test_a_pod_that_kubernetes_would_not_take_is_refused_by_its_key(file: Path, changes: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        resources.load(write(file, **changes))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_stage_adds_to_the_labels_of_all_and_replaces_the_rest() -> None:
    general = Pod(labels={"a": "1", "b": "1"}, annotations={"x": "1"}, image_pull_secrets=["one"], shm="1Gi")
    own = Pod(labels={"b": "2", "c": "2"}, image_pull_secrets=["two"])
    assert own.over(general) == Pod(
        labels={"a": "1", "b": "2", "c": "2"}, annotations={"x": "1"}, image_pull_secrets=["two"], shm="1Gi"
    )


KEYS = st.sampled_from(["a", "example.com/b", "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class", "C_1.d"])
VALUES = st.sampled_from(["", "x", "X-1", "r_42.b"])
AMOUNTS = st.sampled_from(["1Gi", "500M", "64Mi"])
RULE = st.one_of(
    st.fixed_dictionaries({"key": KEYS, "operator": st.sampled_from(["Exists", "DoesNotExist"])}),
    st.fixed_dictionaries({"key": KEYS, "values": st.lists(VALUES, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"key": KEYS, "operator": st.sampled_from(["Gt", "Lt"]), "values": st.just(["3"])}),
)
WEIGHT = st.fixed_dictionaries({}, optional={"weight": st.integers(1, 100)})
MOUNT = st.fixed_dictionaries(
    {"mount": st.sampled_from(["/tmp", "/dev/shm", "/data", "/cache", "/cache/"])},
    optional={"read_only": st.booleans(), "sub_path": st.sampled_from(["", "a/b"])},
)
SOURCE = st.sampled_from([{"claim": "c"}, {"claim": "d"}, {"host_path": "/mnt"}])
SECURITY = st.fixed_dictionaries(
    {},
    optional={
        "non_root": st.booleans(), "user": st.integers(1, 9), "group": st.integers(0, 9), "read_only": st.booleans(),
        "seccomp": st.sampled_from(["RuntimeDefault", "Unconfined"]),
    },
)  # fmt: skip
DESCRIBED: dict[str, st.SearchStrategy[Any]] = {
    "labels": st.dictionaries(KEYS, VALUES, max_size=3),
    "annotations": st.dictionaries(KEYS, st.text("aé: {\"\n", max_size=5)),
    "image_pull_secrets": st.lists(st.sampled_from(["one", "two"]), unique=True), "shm": AMOUNTS,
    "affinity": st.lists(st.builds(dict.__or__, RULE, WEIGHT), max_size=3),
}  # fmt: skip
GENERAL = st.fixed_dictionaries({}, optional=DESCRIBED)
OWN = st.fixed_dictionaries(
    {},
    optional={
        **DESCRIBED,
        "security": SECURITY,
        "volumes": st.lists(st.builds(dict.__or__, MOUNT, SOURCE), max_size=2),
    },
)
TOPOLOGY = st.fixed_dictionaries({}, optional={"together": KEYS, "apart": KEYS, "required": st.booleans()})


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(general=GENERAL, trainers=OWN, reading=OWN, topology=TOPOLOGY, disk=st.none() | AMOUNTS)
def test_pods_have_one_mount_a_path_or_are_refused_and_nothing_is_lost(
    general: Any, trainers: Any, reading: Any, topology: Any, disk: str | None, tmp_path: Path
) -> None:
    train = {"nodes": 2, "disk": disk, "pod": trainers, "topology": topology}
    train["readers"] = {**READERS, "pod": reading, "topology": topology}
    needs = resources.load(write(tmp_path / "resources.yaml", pod=general, train=train, allow_host_path=True))
    clash = _has_clash({**general, **trainers}, disk) or _has_clash({**general, **reading}, None)
    with pytest.raises(UserError, match=r"has \d mounts") if clash else nullcontext():
        pod_checks.check(needs)
    if clash:
        return
    job, _, readers = manifests(tmp_path / "resources.yaml", pod=general, train=train, allow_host_path=True)
    for template, own in ((_template(job), trainers), (readers["spec"]["template"], reading)):
        (container,) = template["spec"]["containers"]
        paths = [mount["mountPath"].rstrip("/") for mount in container["volumeMounts"]]
        assert len(paths) == len(set(paths))
        assert "/tmp" in paths
        names = [mount["name"] for mount in container["volumeMounts"]]
        assert sorted(names) == sorted(volume["name"] for volume in template["spec"]["volumes"])
        wanted = {**general.get("labels", {}), **own.get("labels", {})}
        found = template["metadata"]["labels"]
        assert {key: value for key, value in wanted.items() if "kueue" not in key}.items() <= found.items()
        assert not [key for key in found if "kueue" in key]
        whole = (job if own is trainers else readers)["metadata"]
        assert wanted.items() <= whole["labels"].items()
        rules = own.get("affinity", general.get("affinity", []))
        text = str(template["spec"].get("affinity", {}).get("nodeAffinity", ""))
        assert text.count("operator") == len(rules)


def _has_clash(pod: Any, disk: str | None) -> bool:
    """Whether two volumes of a pod would have one path."""
    paths = [volume["mount"].rstrip("/") for volume in pod.get("volumes", [])]
    if "shm" in pod:
        paths.append("/dev/shm")
    if disk is not None:
        paths.append("/tmp")
    return len(paths) != len(set(paths))


def test_the_examples_of_the_docs_are_what_their_platforms_take(file: Path) -> None:
    section = (
        (ROOT / "docs/deploy.md").read_text().partition("\n## What platform teams ask for\n")[2].partition("\n## ")[0]
    )
    for_kubeflow, for_vertex = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    manifests(file, **yaml.safe_load(for_kubeflow))
    kubeflow.check(resources.load(str(file)), None)
    file.write_text(for_vertex)
    vertex.check(resources.load(str(file)), None)


def test_every_preset_passes() -> None:
    for path in sorted((ROOT / "configs/resources").glob("*.yaml")):
        needs: Resources = resources.load(str(path))
        pod_checks.check(needs)
