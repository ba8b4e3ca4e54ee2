"""Resources files: what is refused, and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import golden, strict
from tests.command_line import ROOT
from twhin.pipelines import resources
from twhin.pipelines.compile import compile_pipeline
from twhin.pipelines.machines import in_gib, pick
from twhin.pipelines.resources import Target
from twhin_core import __version__
from twhin_core.config import file as config_file
from twhin_core.errors import UserError

DIGEST = f"@sha256:{'0' * 64}"
TWO = {"nodes": 2}
READERS = {"count": 2, "cpu": "2", "memory": "4Gi", "token": "gs://bucket/token"}


def write(path: Path, **changes: Any) -> str:
    """A resources file of one small machine a stage; keywords are merged into the file, section by section."""
    tree: dict[str, Any] = {name: {"cpu": "2", "memory": "4Gi"} for name in ("prepare", "train", "evaluate", "export")}
    for key, value in changes.items():
        tree[key] = {**tree[key], **value} if key in tree else value
    path.write_text(yaml.safe_dump(tree))
    return str(path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "resources.yaml"


def compiled(file: Path, target: Target, run_root: str | None = None, **changes: Any) -> list[Any]:
    config, output = config_file.read(str(ROOT / "configs/local.yaml")), file.parent / "pipeline.yaml"
    compile_pipeline(config, resources.load(write(file, **changes)), target, str(output), run_root)
    documents = golden.documents(output)
    strict.check_pipeline(documents)
    return documents


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trian": {"cpu": "2", "memory": "4Gi"}}, "trian: unknown key; did you mean train?"),
        ({"export": {"accelerator": {"type": "l4"}}}, "export.accelerator: unknown key"),
        ({"evaluate": {"nodes": 2}}, "evaluate.nodes: unknown key"),
        ({"train": {"cpu": 4}}, "train.cpu"),
        ({"train": {"memory": "16 GB"}}, "train.memory"),
        ({"train": {"timeout": "2 days"}}, "train.timeout"),
        ({"train": {"accelerator": {"type": "a100"}}}, "train.accelerator.type"),
        ({"train": {"nodes": 0}}, "train.nodes"),
        ({"image": "twhin/twhin:0.0.1"}, f"image: the tag '0.0.1' is not of this version; use {__version__}"),
        ({"image": "twhin/twhin:latest"}, "image: the tag 'latest' is not of this version"),
        ({"image": f"twhin/twhin:{__version__}0"}, "is not of this version"),
        ({"image": "registry:5000/twhin"}, "image: 'registry:5000/twhin' has neither a tag nor a digest"),
        ({"train": {"image": "twhin/twhin:7"}}, "train.image: the tag '7' is not of this version"),
        ({"secrets": [{"name": "key"}]}, "secrets.0: needs exactly one of mount, env"),
    ],
)
def test_what_no_target_takes_is_refused_by_the_name_of_its_key(file: Path, changes: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        resources.load(write(file, **changes))
    assert str(caught.value).startswith(str(file))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "image",
    [
        f"a/b:{__version__}",
        f"a/b:{__version__}-cuda",
        f"registry:5000/b:{__version__}",
        f"a/b{DIGEST}",
        f"a/b:7{DIGEST}",
    ],
)
def test_an_image_of_this_version_or_a_digest_passes(file: Path, image: str) -> None:
    assert resources.load(write(file, image=image)).image == image


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": {"node_selector": {"pool": "gpu"}}}, "train.node_selector: not supported on Vertex AI"),
        ({"prepare": {"tolerations": [{"key": "gpu"}]}}, "prepare.tolerations: not supported on Vertex AI"),
        ({"secrets": [{"name": "key", "mount": "/etc/key"}]}, "secrets: not supported on Vertex AI"),
        ({"volume": {"claim": "data", "mount": "/data"}}, "volume: not supported on Vertex AI"),
        ({"pod": {"labels": {"a": "b"}}}, "pod: not supported on Vertex AI"),
        ({"export": {"pod": {"shm": "1Gi"}}}, "export.pod: not supported on Vertex AI"),
        ({"export": {"requests": {"cpu": "1"}}}, "export.requests: not supported on Vertex AI"),
        ({"allow_host_path": True}, "allow_host_path: not supported on Vertex AI"),
        ({"train": {"runtime": "urgent"}}, "train.runtime: not supported on Vertex AI"),
        ({"train": {"topology": {"apart": "zone"}}}, "train.topology: not supported on Vertex AI"),
        ({"train": {"abandoned_after": "1h"}}, "train.abandoned_after: not supported on Vertex AI"),
        ({"train": {"accelerator": {"resource": "amd.com/gpu"}}}, "train.accelerator.resource: not supported"),
        (
            {"train": {"readers": {**READERS, "pod": {"shm": "1Gi"}}}},
            "train.readers.pod: not supported on Vertex AI",
        ),
        ({"train": {"accelerator": {"type": "a100-80gb", "count": 3}}}, "machines with 1, 2, 4, 8 a100-80gb, not 3"),
        ({"train": {"accelerator": {"type": "a100-80gb", "count": 16}}}, "train.accelerator.count"),
        ({"train": {"accelerator": {"type": "h200-141gb", "count": 4}}}, "has machines with 8 h200-141gb, not 4"),
        ({"train": {"accelerator": {"type": "l4"}, "memory": "200Gi"}}, "train.memory: 200Gi is more than"),
        ({"evaluate": {"spot": True, "cpu": "129"}}, "evaluate.cpu: 129 is more than"),
        ({"train": {"readers": {"count": 2, "cpu": "2", "memory": "4Gi", "token": "a-secret"}}}, "is not a gs:// file"),
    ],
)  # fmt: skip
def test_what_vertex_cannot_honour_is_refused(file: Path, changes: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        compiled(file, "vertex", **changes)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prepare": {"service_account": "me"}}, "prepare.service_account: on Kubeflow only the nodes of a TrainJob"),
        ({"train": {"service_account": "me"}}, "train.service_account"),
        (
            {"train": {"readers": {"count": 2, "cpu": "2", "memory": "4Gi", "token": "gs://b/token"}}},
            "train.readers.token: 'gs://b/token' is not the name of a Secret",
        ),
    ],
)
def test_what_kubeflow_cannot_honour_is_refused(file: Path, changes: Any, said: str) -> None:
    with pytest.raises(UserError) as caught:
        compiled(file, "kubeflow", **changes)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("target", "changes", "said"),
    [
        ("vertex", {}, "--run-root /data/run: Vertex AI needs a gs:// prefix"),
        ("kubeflow", {}, "--run-root /data/run: the next pod cannot see it"),
        ("kubeflow", {"train": TWO}, "--run-root /data/run: the nodes do not share it; use a gs:// prefix"),
        ("kubeflow", {"volume": {"claim": "c", "mount": "/dat"}}, "is not on the volume, which is mounted at /dat"),
    ],
)
def test_a_run_root_that_the_machines_do_not_share_is_refused(
    file: Path, target: Target, changes: Any, said: str
) -> None:
    with pytest.raises(UserError) as caught:
        compiled(file, target, "/data/run", **changes)
    assert said in str(caught.value)
    assert compiled(file, target, "gs://bucket/run", **({} if "volume" in changes else changes))


def test_a_volume_holds_the_run_root_and_secrets_the_credentials_of_every_stage(file: Path) -> None:
    secrets = [{"name": "gcs", "mount": "/etc/gcs"}, {"name": "logs", "env": {"LOG_TOKEN": "token"}}]
    changes = {
        "secrets": secrets, "volume": {"claim": "data", "mount": "/data"}, "env": {"NCCL_DEBUG": "WARN"},
        "train": {
            "nodes": 2, "disk": "50Gi", "spot": True, "service_account": "trainer", "timeout": "2h",
            "node_selector": {"pool": "gpu"}, "tolerations": [{"key": "gpu", "operator": "Exists"}],
        },
    }  # fmt: skip
    document, platform = compiled(file, "kubeflow", "/data/run", **changes)
    for name, executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].items():
        assert executor["secretAsVolume"][0]["secretName"] == "gcs"
        assert executor["secretAsEnv"][0]["keyToEnv"] == [{"envVar": "LOG_TOKEN", "secretKey": "token"}]
        assert executor["pvcMount"][0]["mountPath"] == "/data"
        env = document["deploymentSpec"]["executors"][name]["container"]["env"]
        assert {"name": "NCCL_DEBUG", "value": "WARN"} in env
    inputs = document["root"]["dag"]["tasks"]["train"]["inputs"]["parameters"]
    job = strict.as_created(inputs["manifests"]["runtimeValue"]["constant"][0])
    strict.check_manifest(job)
    spec = job["spec"]
    assert spec["activeDeadlineSeconds"] == 7200
    (patched,) = spec["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = patched["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"pool": "gpu", "cloud.google.com/gke-spot": "true"}
    assert [entry["key"] for entry in pod["tolerations"]] == ["gpu", "cloud.google.com/gke-spot"]
    assert pod["serviceAccountName"] == "trainer"
    mounts = {entry["name"]: entry["mountPath"] for entry in pod["containers"][0]["volumeMounts"]}
    volumes = {mounts[volume.pop("name")]: volume for volume in pod["volumes"]}
    assert volumes == {
        "/tmp": {"emptyDir": {"sizeLimit": "50Gi"}},
        "/data": {"persistentVolumeClaim": {"claimName": "data"}},
        "/etc/gcs": {"secret": {"secretName": "gcs"}},
    }
    from_secret = {"secretKeyRef": {"name": "logs", "key": "token"}}
    assert {"name": "LOG_TOKEN", "valueFrom": from_secret} in spec["trainer"]["env"]
    assert {"name": "NCCL_DEBUG", "value": "WARN"} in spec["trainer"]["env"]


def test_one_pod_gets_all_that_its_stage_asks_for(file: Path) -> None:
    stage = {
        "accelerator": {"type": "t4", "count": 2}, "disk": "50Gi", "spot": True, "timeout": "90m", "retries": 0,
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    }  # fmt: skip
    document, platform = compiled(file, "kubeflow", evaluate=stage)
    executor = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-evaluate"]
    assert executor["nodeSelector"]["labels"] == {
        "cloud.google.com/gke-accelerator": "nvidia-tesla-t4",
        "cloud.google.com/gke-spot": "true",
    }
    assert executor["activeDeadlineSeconds"] == "5400"
    assert {mount["mountPath"]: mount.get("sizeLimit") for mount in executor["emptyDirMounts"]} == {
        "/dev/shm": None,
        "/tmp": "50Gi",
    }
    assert [entry["key"] for entry in executor["tolerations"]] == ["gpu", "cloud.google.com/gke-spot"]
    assert "retryPolicy" not in document["root"]["dag"]["tasks"]["evaluate"]


def test_vertex_gets_its_machines_by_pool(file: Path) -> None:
    readers = {"count": 3, "cpu": "8", "memory": "40Gi", "token": "gs://bucket/secret/token"}
    train = {
        "nodes": 3, "cpu": "90", "memory": "1200Gi", "accelerator": {"type": "a100-80gb", "count": 8}, "spot": True,
        "timeout": "1d", "disk": "500Gi", "service_account": "train@project.iam.gserviceaccount.com",
        "readers": readers,
    }  # fmt: skip
    (document,) = compiled(file, "vertex", train=train, env={"NCCL_DEBUG": "WARN"})
    job = strict.custom_jobs(document)["train"]
    spec = job.job_spec
    chief, workers, reading = spec.worker_pool_specs
    assert [pool.replica_count for pool in spec.worker_pool_specs] == [1, 2, 3]
    for pool in (chief, workers):
        assert pool.machine_spec.machine_type == "a2-ultragpu-8g"
        assert pool.machine_spec.accelerator_count == 8
        assert pool.disk_spec.boot_disk_size_gb == 500
        assert pool.container_spec.image_uri == f"twhin/twhin:{__version__}-cuda"
    assert reading.machine_spec.machine_type == "n2-highmem-8"
    assert reading.machine_spec.accelerator_count == 0
    assert reading.container_spec.image_uri == f"twhin/twhin:{__version__}"
    token = {"NCCL_DEBUG": "WARN", "TWHIN_READER_TOKEN_FILE": "/gcs/bucket/secret/token"}
    assert {entry.name: entry.value for entry in chief.container_spec.env} == token
    listens = {**token, "TWHIN_BIND": "0.0.0.0:2222"}
    assert {entry.name: entry.value for entry in reading.container_spec.env} == listens
    assert spec.scheduling.timeout.seconds == 86400
    assert spec.scheduling.restart_job_on_worker_restart
    assert spec.service_account == "train@project.iam.gserviceaccount.com"
    assert job.display_name == "twhin-train"


def test_readers_beside_a_single_trainer_keep_their_pool(file: Path) -> None:
    readers = {"count": 2, "cpu": "2", "memory": "4Gi", "token": "gs://bucket/token"}
    (document,) = compiled(file, "vertex", train={"readers": readers})
    pools = strict.custom_jobs(document)["train"].job_spec.worker_pool_specs
    assert [pool.replica_count for pool in pools] == [1, 0, 2]
    assert not pools[1].container_spec.image_uri


def test_what_a_custom_job_is_not_told_is_the_runs_own_or_fits_its_machine(file: Path) -> None:
    (document,) = compiled(file, "vertex", train={"accelerator": {"type": "h200-141gb", "count": 8}})
    job = strict.custom_jobs(document)["train"].job_spec
    assert job.service_account == "{{$.pipeline_service_account}}"
    assert job.worker_pool_specs[0].disk_spec.boot_disk_type == "hyperdisk-balanced"


@pytest.mark.parametrize(
    ("needs", "machine"),
    [
        (("2", "8Gi", None), "n2-highmem-2"),
        (("2", "17Gi", None), "n2-highmem-4"),
        (("2500m", "8Gi", None), "n2-standard-4"),
        (("4", "16Gi", ("l4", 1)), "g2-standard-4"),
        (("4", "17Gi", ("l4", 1)), "g2-standard-8"),
        (("12", "85Gi", ("a100-40gb", 1)), "a2-highgpu-1g"),
        (("90", "1300Gi", ("a100-40gb", 16)), "a2-megagpu-16g"),
        (("208", "1872Gi", ("h100-80gb", 8)), "a3-highgpu-8g"),
    ],
)
def test_the_smallest_machine_that_has_so_much_is_taken(needs: Any, machine: str) -> None:
    assert pick(*needs, "train").name == machine


def test_quantities_are_kubernetes_own() -> None:
    assert [in_gib(text) for text in ("1Gi", "1024Mi", "1Ti", "1073741824")] == [1, 1, 1024, 1]
    assert in_gib("16G") == pytest.approx(14.901, abs=1e-3)


def test_the_deployed_manifests_are_what_kubernetes_takes() -> None:
    role, binding = yaml.safe_load_all((ROOT / "deploy/role.yaml").read_text())
    for manifest in (role, binding):
        strict.check_manifest(manifest)
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    runtime = yaml.safe_load((ROOT / "deploy/training-runtime.yaml").read_text())
    (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "node"}, "spec": node["template"]["spec"]}
    strict.check_manifest(job)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert job["spec"]["template"]["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
    assert (node["name"], container["name"]) == ("node", "node")  # which TrainJobs, and what follows them, name


def test_the_checks_refuse_what_a_platform_would(file: Path) -> None:
    """Else the tests above would say nothing."""
    document, platform = compiled(file, "kubeflow", train={"timeout": "1h"})
    document["root"]["dag"]["tasks"]["train"]["retries"] = 3
    with pytest.raises(strict.json_format.ParseError, match="retries"):
        strict.check_pipeline([document])
    del document["root"]["dag"]["tasks"]["train"]["retries"]
    platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]["deadline"] = 1
    with pytest.raises(strict.json_format.ParseError, match="deadline"):
        strict.check_pipeline([document, platform])
    role, _ = yaml.safe_load_all((ROOT / "deploy/role.yaml").read_text())
    with pytest.raises(strict.kubernetes_validate.ValidationError):
        strict.check_manifest({**role, "rule": []})
    if strict.CRD.exists():
        job = {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": {"name": "a"}}
        with pytest.raises(strict.jsonschema.ValidationError, match="numNode"):
            strict.check_manifest({**job, "spec": {"runtimeRef": {"name": "twhin"}, "trainer": {"numNode": 2}}})
