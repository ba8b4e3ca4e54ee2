"""A sweep as an Experiment of Katib: what it accepts, and that its trials run."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import katib as schema
from tests import strict
from tests.command_line import ROOT, assert_refused, twhin
from tests.conftest import SmallConfig
from tests.pipelines.test_pods import NODE_AFFINITY, POD
from tests.pipelines.test_resources import write
from twhin.pipelines import resources
from twhin.pipelines.katib import experiment
from twhin.pipelines.resources import Resources
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import UserError
from twhin_core.stages.prepare import prepare
from twhin_core.tuning.remote import read_given
from twhin_core.tuning.space import sweep_of

LR = "model.embeddings.tables.*.optimizer.rowwise_adagrad.lr"
SPACE = {
    "model.temperature": {"log": [0.1, 10.0]},
    "train_data.global_negatives": {"integer": [4, 16]},
    "model.prior": {"choice": [None, {"weight": 0.5}]},
    "model.comparator": {"choice": ["dot", "l2"], "when": {"model.prior": [None]}},
    LR: {"uniform": [0.05, 0.5]},
    "model.loss": {"choice": ["softmax"]},
}
GRAPH = "gs://bucket/run"


@pytest.fixture
def cpu() -> Resources:
    return resources.load(str(ROOT / "configs/resources/cpu-small.yaml"))


def sweep(small_config: SmallConfig, **settings: Any) -> Config:
    return small_config(sweep={"space": SPACE, "metric": "validation.all.mrr_rhs", "trials": 12, **settings})


@pytest.mark.parametrize("preset", ["retrieval", "facts"])
@pytest.mark.parametrize("machine", ["cpu-small", "gpu-1"])
def test_the_presets_are_what_katib_accepts(preset: str, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWHIN_DATA", "data")
    path = {"retrieval": "configs/quickstart.yaml", "facts": "configs/fb15k_237.yaml"}[preset]
    config = config_file.load(str(ROOT / path), [f"sweep={preset}"])
    made = experiment(config, resources.load(str(ROOT / f"configs/resources/{machine}.yaml")), GRAPH, "Sweep_of.mine")
    schema.check_experiment(made)
    assert made["metadata"]["name"] == "sweep-of-mine"


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("spec.objective.type", "most"),
        ("spec.parameters.0.feasibleSpace.min", 0.1),
        ("spec.parameters.0.parameterType", "float"),
        ("spec.maxTrialCount", "12"),
        ("spec.earlyStopping.algorithmName", "asha"),
        ("spec.trialTemplate.trialParameters.1.reference", "nowhere"),
        ("spec.trialTemplate.primaryContainer", "trial"),
        ("spec.metricsCollectorSpec.collector.kind", "Stdout"),
        ("metadata.name", "Sweep"),
        ("spec.parallelTrialCount", 0),
    ],
)
def test_the_schema_refuses_what_katib_would(key: str, wrong: Any, small_config: SmallConfig, cpu: Resources) -> None:
    made = experiment(sweep(small_config), cpu, GRAPH, "sweep")
    schema.check_experiment(made)
    config_file.put(made, key, wrong, key)
    with pytest.raises(Exception):  # noqa: B017, PT011 -- of the schema, or an assertion
        schema.check_experiment(made)


def test_the_experiment_says_what_the_sweep_does(small_config: SmallConfig, cpu: Resources) -> None:
    spec = experiment(sweep(small_config, parallelism=3, looks=5, direction="minimize"), cpu, GRAPH, "sweep")["spec"]
    assert spec["parameters"] == [
        {
            "name": "temperature",
            "parameterType": "double",
            "feasibleSpace": {"min": "0.1", "max": "10.0", "distribution": "logUniform"},
        },
        {
            "name": "global_negatives",
            "parameterType": "int",
            "feasibleSpace": {"min": "4", "max": "16", "distribution": "uniform"},
        },
        {"name": "prior", "parameterType": "categorical", "feasibleSpace": {"list": ["null", "choice_1"]}},
        {"name": "comparator", "parameterType": "categorical", "feasibleSpace": {"list": ["dot", "l2"]}},
        {
            "name": "lr",
            "parameterType": "double",
            "feasibleSpace": {"min": "0.05", "max": "0.5", "distribution": "uniform"},
        },
    ]
    assert (spec["maxTrialCount"], spec["parallelTrialCount"]) == (12, 3)
    metric = "validation_all_mrr_rhs"
    assert spec["objective"] == {
        "type": "minimize",
        "objectiveMetricName": metric,
        "metricStrategies": [{"name": metric, "value": "latest"}],
    }
    assert {"name": "start_step", "value": "3"} in spec["earlyStopping"]["algorithmSettings"]
    assert "earlyStopping" not in experiment(sweep(small_config, stopping=None), cpu, GRAPH, "sweep")["spec"]


def test_every_trial_is_a_job_that_kubernetes_and_a_shell_accept(small_config: SmallConfig, cpu: Resources) -> None:
    config = sweep(small_config)
    made = experiment(config, cpu, GRAPH, "sweep")
    for prior, comparator in itertools.product(["null", "choice_1"], ["dot", "l2"]):
        values = {"temperature": "0.5", "global_negatives": "7", "prior": prior, "comparator": comparator, "lr": "0.25"}
        job = schema.as_created(made, "sweep-abcd", values)
        strict.check_manifest(job)
        (container,) = job["spec"]["template"]["spec"]["containers"]
        command = container["command"]
        assert container["name"] == made["spec"]["trialTemplate"]["primaryContainerName"]
        assert shlex.split(" ".join(command)) == command  # Katib passes it to a shell
        assert command[:7] == ["twhin", "trial", GRAPH, "--name", "sweep-abcd", "--report", "katib"]
        found = read_given(sweep_of(config), dict(of.removeprefix("--").split("=") for of in command[7:]))
        expected = {"model.temperature": 0.5, "train_data.global_negatives": 7, LR: 0.25, "model.loss": "softmax"}
        expected["model.prior"] = None if prior == "null" else {"weight": 0.5}
        if prior == "null":
            expected["model.comparator"] = comparator
        assert found == expected


def test_a_trial_takes_all_that_the_stage_train_says_of_its_pod(small_config: SmallConfig, tmp_path: Path) -> None:
    train = {
        "accelerator": {"type": "l4"}, "requests": {"cpu": "1500m"}, "disk": "30Gi", "spot": True, "timeout": "2h",
        "retries": 5, "service_account": "trainer", "tolerations": [{"key": "training", "operator": "Exists"}],
        "pod": {
            "priority_class": "low", "image_pull_policy": "Always", "labels": {"cost-center": "r43"},
            "security": {"user": 4000, "group": 4001, "seccomp": "Unconfined"},
            "volumes": [{"host_path": "/mnt/cache", "mount": "/cache", "read_only": True}],
        },
    }  # fmt: skip
    path = write(
        tmp_path / "resources.yaml", train=train, pod=POD, allow_host_path=True, env={"LOG": "1"},
        volume={"claim": "runs", "mount": "/runs"},
        secrets=[{"name": "keys", "mount": "/keys"}, {"name": "more", "env": {"KEY": "of"}}],
    )  # fmt: skip
    made = experiment(sweep(small_config), resources.load(path), "/runs/mine", "sweep")
    schema.check_experiment(made)
    values = {"temperature": "1", "global_negatives": "7", "prior": "null", "comparator": "l2", "lr": "0.25"}
    job = schema.as_created(made, "sweep-abcd", values)
    strict.check_manifest(job)

    labels = {"app.kubernetes.io/name": "twhin", "app.kubernetes.io/component": "trial", "cost-center": "r43"}
    queue = {"kueue.x-k8s.io/queue-name": "team-a"}
    assert job["metadata"] == {"name": "sweep-abcd", "labels": {**labels, **queue}, "annotations": POD["annotations"]}
    assert (job["spec"]["backoffLimit"], job["spec"]["activeDeadlineSeconds"]) == (5, 7200)
    template = job["spec"]["template"]
    assert template["metadata"] == {
        "labels": {"sidecar.istio.io/inject": "false", **labels}, "annotations": POD["annotations"],
    }  # fmt: skip
    pod = template["spec"]
    (container,) = pod["containers"]
    # Katib adds a container that runs as root: the pod as a whole must not refuse it.
    assert "securityContext" not in pod
    assert container["securityContext"] == {
        "runAsNonRoot": True, "runAsUser": 4000, "runAsGroup": 4001, "seccompProfile": {"type": "Unconfined"},
        "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert container["imagePullPolicy"] == "Always"
    assert container["resources"] == {
        "limits": {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"},
        "requests": {"cpu": "1500m", "memory": "4Gi", "nvidia.com/gpu": "1"},
    }
    # No task follows a trial, so there is no heartbeat that it could wait for.
    assert container["env"] == [
        {"name": "HOME", "value": "/tmp"},
        {"name": "LOG", "value": "1"},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "more", "key": "of"}}},
    ]
    sources = {volume.pop("name"): volume for volume in pod["volumes"]}
    mounts = {
        mount["mountPath"]: (sources[mount["name"]], mount.get("readOnly")) for mount in container["volumeMounts"]
    }
    assert mounts == {
        "/dev/shm": ({"emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}, None),
        "/tmp": ({"emptyDir": {"sizeLimit": "30Gi"}}, None),
        "/runs": ({"persistentVolumeClaim": {"claimName": "runs"}}, None),
        "/keys": ({"secret": {"secretName": "keys"}}, None),
        "/cache": ({"hostPath": {"path": "/mnt/cache", "type": "Directory"}}, True),
    }
    assert pod["affinity"] == {"nodeAffinity": NODE_AFFINITY}
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-accelerator": "nvidia-l4", "cloud.google.com/gke-spot": "true",
    }  # fmt: skip
    assert [entry["key"] for entry in pod["tolerations"]] == ["training", "cloud.google.com/gke-spot"]
    assert (pod["serviceAccountName"], pod["priorityClassName"]) == ("trainer", "low")
    assert (pod["imagePullSecrets"], pod["restartPolicy"]) == ([{"name": "registry"}], "Never")


CACHE = {"host_path": "/mnt/cache", "mount": "/cache"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": {"pod": {"volumes": [CACHE]}}}, "train.pod.volumes.0.host_path: it gives the pods access"),
        ({"pod": {"volumes": [CACHE]}}, "pod.volumes.0.host_path: it gives the pods access"),
        (
            {"train": {"disk": "9Gi", "pod": {"volumes": [{"claim": "c", "mount": "/tmp/"}]}}},
            "train.pod.volumes: /tmp has 2 mounts",
        ),
        ({"train": {"accelerator": {"resource": "amd.com/gpu"}}}, "train.image: our image has CUDA only"),
        ({"train": {"topology": {"apart": "zone"}}}, "train.topology: only a TrainJob has it"),
        ({"train": {"runtime": "mine"}}, "train.runtime: only a TrainJob has it"),
        ({"train": {"abandoned_after": "5m"}}, "train.abandoned_after: only a TrainJob has it"),
        ({"train": {"reservation": "any"}}, "train.reservation: not supported on Kubeflow"),
        ({"train": {"disk_type": "pd-ssd"}}, "train.disk_type: not supported on Kubeflow"),
        ({"vertex": {"labels": {"cost": "r42"}}}, "vertex: not supported on Kubeflow; leave it out for --target katib"),
    ],
)  # fmt: skip
def test_what_a_trial_cannot_tell_kubernetes_is_refused(
    changes: Any, said: str, small_config: SmallConfig, tmp_path: Path
) -> None:
    needs = resources.load(write(tmp_path / "resources.yaml", **changes))
    with pytest.raises(UserError) as caught:
        experiment(sweep(small_config), needs, GRAPH, "sweep")
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "--temperature"),
        ({"temperature": "11"}, "model.temperature"),
        ({"temperature": "warm"}, "'warm'"),
        ({"temperature": "1", "global_negatives": "4.5"}, "integer"),
        ({"temperature": "1", "global_negatives": "4", "prior": "choice_7"}, "choice_7"),
        ({"tempature": "1"}, "temperature?"),
    ],
)
def test_a_trial_with_wrong_values_is_one_line(given: dict[str, str], said: str, small_config: SmallConfig) -> None:
    with pytest.raises(UserError) as error:
        read_given(sweep_of(sweep(small_config)), given)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("settings", "machine", "root", "said"),
    [
        ({"stopping": "asha"}, "cpu-small", GRAPH, "sweep.stopping"),
        ({}, "a100x16-2nodes", GRAPH, "train.nodes"),
        ({}, "a100x8", GRAPH, "train.accelerator.count"),
        ({}, "cpu-small", "/runs/mine", "--run-root /runs/mine"),
        ({"metric": "validation.all.mrrr"}, "cpu-small", GRAPH, "sweep.metric"),
    ],
)
def test_what_katib_does_not_support_is_refused(
    settings: dict[str, Any], machine: str, root: str, said: str, small_config: SmallConfig
) -> None:
    needs = resources.load(str(ROOT / f"configs/resources/{machine}.yaml"))
    with pytest.raises(UserError, match=said):
        experiment(sweep(small_config, **settings), needs, root, "sweep")


def test_the_command_compiles_and_compares(small_config: SmallConfig, tmp_path: Path) -> None:
    path, output = tmp_path / "config.yaml", tmp_path / "sweep.yaml"
    path.write_text(config_file.to_yaml(sweep(small_config)))
    command = ["compile", path, "--resources", "configs/resources/cpu-small.yaml", "--target", "katib"]
    command += ["--output", output]
    assert_refused(twhin(*command), "--run-root")
    ran = twhin(*command, "--run-root", GRAPH)
    assert ran.returncode == 0, ran.stderr
    schema.check_experiment(yaml.safe_load(output.read_text()))
    assert twhin(*command, "--run-root", GRAPH, "--check").returncode == 0
    changed = twhin(*command, "--run-root", GRAPH, "--check", "--set", "sweep.trials=13")
    assert_refused(changed, "out of date", exit_code=1)
    assert "+  maxTrialCount: 13" in changed.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_trial_reports_each_look_on_stdout(small_config: SmallConfig, tmp_path: Path) -> None:
    config, root = sweep(small_config, looks=2), tmp_path / "run"
    prepare(config, str(root))
    values = ["--temperature=0.5", "--global_negatives=7", "--prior=null", "--comparator=l2", "--lr=0.25"]
    ran = twhin("trial", root, "--name", "one", "--report", "katib", *values)
    assert ran.returncode == 0, ran.stderr
    lines = [schema.METRIC.match(line) for line in ran.stdout.splitlines()]
    assert [line and line[1] for line in lines] == ["validation_all_mrr_rhs"] * 2
    made = config_file.load(str(root / "trials/one/config.yaml"))
    assert (made.model.temperature, made.model.comparator, made.train_data.global_negatives) == (0.5, "l2", 7)
    assert not (root / "trials/one/graph/edges").exists()
    # A pod that starts again goes on; all is done, so it measures the end again.
    again = twhin("trial", root, "--name", "one", "--report", "katib", *values)
    assert again.stdout == ran.stdout
    assert_refused(twhin("trial", root, "--name", "two", "--report", "katib", *values[1:]), "--temperature")
