"""A sweep as a HyperparameterTuningJob of Vertex AI: what the API accepts, and how a trial reports."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from google.cloud.aiplatform_v1.types import HyperparameterTuningJob, Scheduling, StudySpec
from google.protobuf import json_format

from tests import golden, strict
from tests.command_line import ROOT, assert_refused, twhin
from tests.conftest import SmallConfig
from tests.pipelines.test_resources import write
from tests.pipelines.test_vertex_fields import ATTACHMENT, KEY, NETWORK, RESERVED
from twhin.pipelines import resources, submit
from twhin.pipelines.compile import compile_pipeline
from twhin_core import storage
from twhin_core.config import file as config_file
from twhin_core.errors import UserError
from twhin_core.stages.prepare import prepare
from twhin_core.tuning.remote import MetricFile

INPUT = re.compile(r"\{\{\$\.inputs\.parameters\['([\w-]+)'\]\}\}")
JOB = "hyperparameter-tuning-job"


def compiled(tmp_path: Path, overrides: list[str], machine: str = "gpu-1", **changes: Any) -> list[Any]:
    """With the resources of a machine or, given `changes`, of a small machine with these."""
    source = config_file.read(str(ROOT / "configs/quickstart.yaml"), overrides)
    output = tmp_path / "sweep.yaml"
    path = write(tmp_path / "resources.yaml", **changes) if changes else ROOT / f"configs/resources/{machine}.yaml"
    needs = resources.load(str(path))
    compile_pipeline(source, needs, "vertex", str(output), "gs://bucket/{run}", sweep=True)
    return golden.documents(output)


def job_of(document: Any) -> Any:
    """The job that the pipeline creates: the payload with the inputs of its task filled in, as a protobuf."""
    task = document["root"]["dag"]["tasks"][JOB]
    component = document["components"][task["componentRef"]["name"]]
    given = {
        name: of["runtimeValue"]["constant"]
        for name, of in task["inputs"]["parameters"].items()
        if "runtimeValue" in of
    }
    defaults = {name: of.get("defaultValue") for name, of in component["inputDefinitions"]["parameters"].items()}
    assert given.keys() <= defaults.keys()
    args = document["deploymentSpec"]["executors"][component["executorLabel"]]["container"]["args"]
    payload = "".join(json.loads(args[args.index("--payload") + 1])["Concat"])

    def filled(match: re.Match[str]) -> str:
        value = {**defaults, **given}[match[1]]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return value if isinstance(value, str) else _whole(json.dumps(value))

    text = INPUT.sub(filled, payload)
    return json_format.ParseDict(json.loads(text), HyperparameterTuningJob.pb(HyperparameterTuningJob()))


def _whole(text: str) -> str:
    """Without the `.0` of whole numbers, which KFP keeps as floats, and the API reads as integers."""
    return re.sub(r"(\d)\.0(?=[,}\]])", r"\1", text)


def test_the_job_says_what_the_sweep_does(tmp_path: Path) -> None:
    space = (
        "{model.temperature: {log: [0.05, 0.5]}, train_data.global_negatives: {integer: [100, 500]}, "
        "model.prior: {choice: [null, {weight: 0.5}]}, model.relation_prediction: {uniform: [0.1, 0.2]}, "
        "training.num_epochs: {log_integer: [2, 32]}}"
    )
    settings = f"sweep={{space: {space}, trials: 30, parallelism: 4, metric: validation.fav.mrr, direction: minimize}}"
    documents = compiled(tmp_path, [settings])
    strict.check_pipeline(documents)
    job = job_of(documents[0])
    assert (job.max_trial_count, job.parallel_trial_count, job.max_failed_trial_count) == (30, 4, 3)
    study = job.study_spec
    (metric,) = study.metrics
    assert (metric.metric_id, metric.goal) == ("validation_fav_mrr", StudySpec.MetricSpec.GoalType.MINIMIZE)
    assert study.HasField("median_automated_stopping_spec")
    log, linear = StudySpec.ParameterSpec.ScaleType.UNIT_LOG_SCALE, StudySpec.ParameterSpec.ScaleType.UNIT_LINEAR_SCALE
    found = {
        of.parameter_id: (of.WhichOneof("parameter_value_spec"), of.scale_type) for of in study.parameters
    }  # fmt: skip
    assert found == {
        "temperature": ("double_value_spec", log),
        "global_negatives": ("integer_value_spec", linear),
        "prior": ("categorical_value_spec", 0),
        "relation_prediction": ("double_value_spec", linear),
        "num_epochs": ("integer_value_spec", log),
    }
    by_name = {of.parameter_id: of for of in study.parameters}
    assert list(by_name["prior"].categorical_value_spec.values) == ["null", "choice_1"]
    ends = by_name["temperature"].double_value_spec
    assert (ends.min_value, ends.max_value) == (0.05, 0.5)
    whole = by_name["num_epochs"].integer_value_spec
    assert (whole.min_value, whole.max_value) == (2, 32)
    (pool,) = job.trial_job_spec.worker_pool_specs
    assert pool.replica_count == 1
    assert pool.machine_spec.accelerator_count == 1
    assert list(pool.container_spec.command)[:2] == ["twhin", "trial"]
    assert list(pool.container_spec.command)[-2:] == ["--report", "vertex"]


def test_the_job_follows_prepare_and_gets_the_run_root(tmp_path: Path) -> None:
    (document,) = compiled(tmp_path, ["sweep={preset: retrieval, stopping: null}"])
    tasks = document["root"]["dag"]["tasks"]
    assert set(tasks) == {"prepare", JOB}
    assert tasks[JOB]["dependentTasks"] == ["prepare"]
    assert tasks[JOB]["inputs"]["parameters"]["pipelinechannel--run_root"] == {"componentInputParameter": "run_root"}
    assert not job_of(document).study_spec.HasField("median_automated_stopping_spec")
    request = submit.read(str(tmp_path / "sweep.yaml"), "vertex")
    assert request.root == "gs://bucket/{run}"


def test_a_trial_takes_all_that_the_stage_train_says(tmp_path: Path) -> None:
    train = {
        "accelerator": {"type": "a100-80gb", "count": 1}, "reservation": RESERVED, "disk": "200Gi",
        "disk_type": "pd-balanced", "timeout": "2h", "service_account": "trainer@mine",
    }  # fmt: skip
    settings = {"network": NETWORK, "reserved_ip_ranges": ["range-1"], "encryption_key": KEY, "labels": {"cost": "r42"}}
    documents = compiled(tmp_path, ["sweep=retrieval"], train=train, vertex=settings, env={"LOG": "1"})
    strict.check_pipeline(documents)
    job = job_of(documents[0])
    assert job.encryption_spec.kms_key_name == KEY
    assert dict(job.labels) == {"cost": "r42"}
    assert job.study_spec.HasField("median_automated_stopping_spec")
    trial = job.trial_job_spec
    assert (trial.network, list(trial.reserved_ip_ranges)) == (NETWORK, ["range-1"])
    assert trial.service_account == "trainer@mine"
    assert (trial.scheduling.timeout.seconds, trial.scheduling.restart_job_on_worker_restart) == (7200, False)
    assert trial.scheduling.strategy == Scheduling.Strategy.STANDARD
    (pool,) = trial.worker_pool_specs
    assert list(pool.machine_spec.reservation_affinity.values) == [RESERVED]
    assert (pool.disk_spec.boot_disk_type, pool.disk_spec.boot_disk_size_gb) == ("pd-balanced", 200)
    assert {of.name: of.value for of in pool.container_spec.env} == {"LOG": "1"}


def test_trials_reach_a_private_network_and_run_on_spot_machines(tmp_path: Path) -> None:
    peering = {"domain": "example.com.", "project": "mine", "network": "inner"}
    settings = {"network_attachment": ATTACHMENT, "dns_peerings": [peering]}
    (document,) = compiled(tmp_path, ["sweep=retrieval"], train={"spot": True}, vertex=settings)
    trial = job_of(document).trial_job_spec
    assert not trial.network
    assert trial.psc_interface_config.network_attachment == ATTACHMENT
    (dns,) = trial.psc_interface_config.dns_peering_configs
    assert (dns.domain, dns.target_project, dns.target_network) == ("example.com.", "mine", "inner")
    assert trial.scheduling.strategy == Scheduling.Strategy.SPOT
    assert trial.scheduling.restart_job_on_worker_restart


@pytest.mark.parametrize(
    ("overrides", "machine", "said"),
    [
        ([], "gpu-1", "sweep"),
        (["sweep={preset: retrieval, stopping: asha}"], "gpu-1", "sweep.stopping"),
        (["sweep=retrieval"], "a100x16-2nodes", "train.nodes"),
        (["sweep=retrieval"], "a100x8", "train.accelerator.count"),
        (["sweep={space: {model.temprature: {log: [0.1, 1]}}}"], "gpu-1", "temperature"),
    ],
)
def test_what_vertex_does_not_support_is_refused(overrides: list[str], machine: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        compiled(tmp_path, overrides, machine)


def test_the_command_compiles_a_sweep_for_vertex_alone(tmp_path: Path) -> None:
    command = ["compile", "configs/quickstart.yaml", "--resources", "configs/resources/gpu-1.yaml", "--sweep"]
    command += ["--output", tmp_path / "sweep.yaml", "--set", "sweep=retrieval"]
    assert_refused(twhin(*command, "--target", "kubeflow"), "--sweep", "katib")
    ran = twhin(*command, "--target", "vertex")
    assert ran.returncode == 0, ran.stderr
    assert "budget has no effect" in ran.stderr
    strict.check_pipeline(golden.documents(tmp_path / "sweep.yaml"))


def test_figures_are_lines_that_vertex_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hypertune" / "output.metrics"
    monkeypatch.setenv("CLOUD_ML_HP_METRIC_FILE", str(path))
    monkeypatch.setenv("CLOUD_ML_TRIAL_ID", "7")
    report = MetricFile()
    for look, value in enumerate([0.125, 0.5], 1):
        report("validation_all_mrr", value, look)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(lines) == look
    assert [{key: of for key, of in line.items() if key != "timestamp"} for line in lines] == [
        {"trial": "7", "validation_all_mrr": "0.125", "global_step": "1"},
        {"trial": "7", "validation_all_mrr": "0.5", "global_step": "2"},
    ]
    assert all(isinstance(line["timestamp"], float) for line in lines)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_trial_as_vertex_starts_it(small_config: SmallConfig, tmp_path: Path) -> None:
    space = {"model.temperature": {"log": [0.1, 1.0]}, "model.comparator": {"choice": ["dot", "l2"]}}
    config = small_config(sweep={"space": space, "metric": "validation.all.mrr", "looks": 2})
    prepare(config, storage.join(str(tmp_path), "job-1"))
    file = tmp_path / "metrics"
    ran = twhin(
        "trial", tmp_path / "{run}", "--run", "job-1", "--report", "vertex", "--temperature=0.5", "--comparator=l2",
        CLOUD_ML_TRIAL_ID="3", CLOUD_ML_HP_METRIC_FILE=str(file),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["global_step"] for line in lines] == ["1", "2"]
    assert (tmp_path / "job-1/trials/3/training/finished.json").exists()
