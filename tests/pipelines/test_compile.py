"""The pipeline compiled for each target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kfp import components

from tests import golden, strict
from tests.command_line import ROOT, assert_refused, twhin
from twhin.pipelines import resources
from twhin.pipelines.compile import compile_pipeline, find_differences
from twhin.pipelines.resources import Resources, Target
from twhin_core import __version__
from twhin_core.config import file as config_file
from twhin_core.config.file import ConfigText
from twhin_core.errors import UserError

STAGES = ["prepare", "train", "evaluate", "export", "recommend"]


@pytest.fixture
def config() -> ConfigText:
    return config_file.read(str(ROOT / "configs/local.yaml"))


@pytest.fixture
def gpu() -> Resources:
    return resources.load(str(ROOT / "configs/resources/gpu-1.yaml"))


def manifests_of(documents: list[Any]) -> list[Any]:
    """What the train task is to create, if it is one that creates a TrainJob."""
    inputs = documents[0]["root"]["dag"]["tasks"]["train"]["inputs"]["parameters"]
    return inputs["manifests"]["runtimeValue"]["constant"] if "manifests" in inputs else []


def compiled(
    config: ConfigText, needs: Resources, target: Target, folder: Path, run_root: str | None = None
) -> list[Any]:
    output = folder / "pipeline.yaml"
    compile_pipeline(config, needs, target, str(output), run_root)
    assert [path.name for path in folder.iterdir()] == ["pipeline.yaml"]  # nothing is left beside it
    return golden.documents(output)


@pytest.mark.parametrize("name", [*golden.GOLDENS, *golden.REFRESHES])
def test_golden(name: str, tmp_path: Path) -> None:
    golden.write(name, tmp_path / name)
    assert golden.documents(tmp_path / name) == golden.documents(golden.FOLDER / name), "see `make goldens`"


@pytest.mark.parametrize("name", golden.COMPONENTS)
def test_a_components_file_is_the_component(name: str, tmp_path: Path) -> None:
    golden.write_component(name, tmp_path / "component.yaml")
    shipped = ROOT / f"components/{name}/component.yaml"
    assert golden.documents(shipped) == golden.documents(tmp_path / "component.yaml"), "see `make goldens`"
    assert f"image: twhin/twhin:{__version__}\n" in shipped.read_text()
    inputs = set(components.load_component_from_file(str(shipped)).component_spec.inputs)
    of_series = {"plan": {"config", "overrides", "series"}, "publish": {"series", "version", "after", "keep"}}
    assert inputs == of_series.get(name, {"config", "overrides", "run", "run_root"})


PRESETS = sorted(path.stem for path in (ROOT / "configs/resources").glob("*.yaml"))
CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("target", ["kubeflow", "vertex"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_and_config_compile_to_what_the_platform_accepts(
    preset: str, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with some of the other: what a config says is a parameter, whatever the resources."""
    monkeypatch.setenv("TWHIN_DATA", "gs://bucket/data")
    needs = resources.load(str(ROOT / f"configs/resources/{preset}.yaml"))
    number = PRESETS.index(preset)
    for name in {CONFIGS[number % len(CONFIGS)], *CONFIGS[number :: len(PRESETS)]}:
        config = config_file.read(str(ROOT / "configs" / name))
        documents = compiled(config, needs, target, tmp_path)
        strict.check_pipeline(documents)
        jobs = strict.custom_jobs(documents[0])
        if target == "vertex":
            assert len(documents) == 1
            assert "kubernetes" not in (tmp_path / "pipeline.yaml").read_text()
            assert ("train" in jobs) == (needs.train.accelerator is not None)
        else:
            assert len(documents) == 2
            assert not jobs
            for manifest in manifests_of(documents):
                strict.check_manifest(strict.as_created(manifest))


def test_the_parameters_are_the_config_and_a_run_root_without_default(
    config: ConfigText, gpu: Resources, tmp_path: Path
) -> None:
    (document,) = compiled(config, gpu, "vertex", tmp_path)
    parameters = document["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == {"config", "overrides", "run_root"}
    assert parameters["config"]["defaultValue"] == (ROOT / "configs/local.yaml").read_text()
    assert parameters["overrides"]["defaultValue"] == []
    assert "defaultValue" not in parameters["run_root"]
    (document,) = compiled(config, gpu, "vertex", tmp_path, run_root="gs://bucket/run")
    assert document["root"]["inputDefinitions"]["parameters"]["run_root"]["defaultValue"] == "gs://bucket/run"


TEXTS = {
    "comments": "# mine\n\na: 'x'  # y\n",
    "spaces at ends of lines": "a: 1 \n \nb: 2\n",
    "no last line end": "a: 1",
    "several last line ends": "a: 1\n\n\n",
    "letters": "a: \u00e9 \U0001f600\n",
    "a tab and a bar": "a: |\n  x\ty\n",
    "indented": "  a: 1\n  b: 2\n",
    "one line": '{"a": "b: c"}',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_config_is_the_users_own_text(text: str, gpu: Resources, tmp_path: Path) -> None:
    (document,) = compiled(ConfigText(text, ("a=7",)), gpu, "vertex", tmp_path)
    parameters = document["root"]["inputDefinitions"]["parameters"]
    assert parameters["config"]["defaultValue"] == text
    assert parameters["overrides"]["defaultValue"] == ["a=7"]


def test_every_stage_takes_the_overrides(config: ConfigText, gpu: Resources, tmp_path: Path) -> None:
    document, _ = compiled(config, gpu, "kubeflow", tmp_path)
    dag = document["root"]["dag"]["tasks"]
    for stage in STAGES[:3]:
        assert dag[stage]["inputs"]["parameters"]["overrides"] == {"componentInputParameter": "overrides"}
    for number, stage in enumerate(STAGES[3:], 1):
        task = document["components"][f"comp-condition-{number}"]["dag"]["tasks"][stage]
        assert task["inputs"]["parameters"]["overrides"] == {"componentInputParameter": "pipelinechannel--overrides"}


def test_every_stage_runs_in_the_one_image_with_its_resources(
    config: ConfigText, gpu: Resources, tmp_path: Path
) -> None:
    mine = gpu.model_copy(update={"image": f"elsewhere/twhin:{__version__}"})
    document, platform = compiled(config, mine, "kubeflow", tmp_path)
    executors = document["deploymentSpec"]["executors"]
    assert set(executors) == {f"exec-{stage}" for stage in STAGES}
    for stage in STAGES:
        container = executors[f"exec-{stage}"]["container"]
        assert container["image"] == f"elsewhere/twhin:{__version__}"
        assert "pip install" not in " ".join(container["command"])
        assert ("accelerator" in container["resources"]) == (stage == "train")
    train = executors["exec-train"]["container"]["resources"]
    assert (train["resourceCpuLimit"], train["resourceMemoryLimit"]) == ("8", "28Gi")
    assert (train["accelerator"]["resourceType"], train["accelerator"]["resourceCount"]) == ("nvidia.com/gpu", "1")
    placed = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for stage in STAGES:
        labels = {"app.kubernetes.io/name": "twhin", "app.kubernetes.io/component": stage}
        assert placed[f"exec-{stage}"].pop("podMetadata") == {"labels": labels}
        assert placed[f"exec-{stage}"].pop("securityContext") == {"runAsNonRoot": True}
    assert placed.pop("exec-train") == {
        "emptyDirMounts": [{"medium": "Memory", "mountPath": "/dev/shm", "volumeName": "shm"}],
        "nodeSelector": {"labels": {"cloud.google.com/gke-accelerator": "nvidia-l4"}},
    }
    assert not any(placed.values())


def test_without_an_image_a_stage_with_gpus_takes_the_one_with_cuda(
    config: ConfigText, gpu: Resources, tmp_path: Path
) -> None:
    document, _ = compiled(config, gpu, "kubeflow", tmp_path)
    images = {
        name: executor["container"]["image"] for name, executor in document["deploymentSpec"]["executors"].items()
    }
    assert images.pop("exec-train") == f"twhin/twhin:{__version__}-cuda"
    assert set(images.values()) == {f"twhin/twhin:{__version__}"}


@pytest.mark.parametrize(
    ("target", "run"), [("kubeflow", "{{$.pipeline_job_uuid}}"), ("vertex", "{{$.pipeline_job_name}}")]
)
def test_the_stages_follow_each_other_uncached_and_export_waits_for_the_gates(
    target: Target, run: str, config: ConfigText, gpu: Resources, tmp_path: Path
) -> None:
    document, *_ = compiled(config, gpu, target, tmp_path)
    tasks = document["root"]["dag"]["tasks"]
    order = {name: task.get("dependentTasks", []) for name, task in tasks.items()}
    assert order == {"prepare": [], "train": ["prepare"], "evaluate": ["train"], "condition-1": ["evaluate"]}
    inner = document["components"]["comp-condition-1"]["dag"]["tasks"]
    assert set(inner) == {"export", "condition-2"}
    assert inner["condition-2"]["dependentTasks"] == ["export"]
    lists = document["components"]["comp-condition-2"]["dag"]["tasks"]
    assert set(lists) == {"recommend"}
    for condition in (tasks["condition-1"], inner["condition-2"]):
        assert condition["triggerPolicy"]["condition"].endswith("== true")
    for task in [tasks["prepare"], tasks["train"], tasks["evaluate"], inner["export"], lists["recommend"]]:
        assert not task["cachingOptions"].get("enableCache", False)
        assert task["inputs"]["parameters"]["run"] == {"runtimeValue": {"constant": run}}
        pauses = {"backoffDuration": "60s", "backoffFactor": 2.0, "backoffMaxDuration": "3600s"}
        assert task["retryPolicy"] == {"maxRetryCount": 3, **pauses}


def test_the_command_compiles_a_file_that_both_readers_take(tmp_path: Path) -> None:
    output = tmp_path / "new" / "pipeline.yaml"
    ran = twhin(
        "compile", "configs/quickstart.yaml", "--resources", "configs/resources/cpu-small.yaml",
        "--target", "vertex", "--output", output, "--set", "training.num_epochs=3",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    (document,) = golden.documents(output)
    parameters = document["root"]["inputDefinitions"]["parameters"]
    assert parameters["config"]["defaultValue"] == (ROOT / "configs/quickstart.yaml").read_text()
    assert parameters["overrides"]["defaultValue"] == ["training.num_epochs=3"]


def test_check_says_what_differs_and_writes_nothing(config: ConfigText, gpu: Resources, tmp_path: Path) -> None:
    output = tmp_path / "pipeline.yaml"
    compiled(config, gpu, "kubeflow", tmp_path)
    assert find_differences(config, gpu, "kubeflow", str(output)) == ""
    committed = output.read_bytes()
    ran = twhin(
        "compile", "configs/local.yaml", "--resources", "configs/resources/gpu-1.yaml",
        "--target", "kubeflow", "--output", output, "--check", "--set", "training.num_epochs=7",
    )  # fmt: skip
    assert_refused(ran, f"{output} is out of date", exit_code=1)
    changed = [line.split() for line in ran.stdout.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert changed == [["-", "defaultValue:", "[]"], ["+", "defaultValue:"], ["+", "-", "training.num_epochs=7"]]
    assert output.read_bytes() == committed
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline.yaml"]


@pytest.mark.parametrize(("text", "said"), [("", "not a compiled pipeline"), ("a: [", "not a compiled pipeline")])
def test_check_refuses_what_is_no_compiled_pipeline(
    text: str, said: str, config: ConfigText, gpu: Resources, tmp_path: Path
) -> None:
    output = tmp_path / "pipeline.yaml"
    with pytest.raises(UserError, match="no such file"):
        find_differences(config, gpu, "kubeflow", str(output))
    output.write_text(text)
    with pytest.raises(UserError, match=said):
        find_differences(config, gpu, "kubeflow", str(output))


@pytest.mark.parametrize("target", ["kubeflow", "vertex"])
def test_the_refresh_is_what_the_platform_accepts(target: Target, tmp_path: Path) -> None:
    name = next(name for name, (_, of) in golden.REFRESHES.items() if of == target)
    golden.write(name, tmp_path / "pipeline.yaml")
    documents = golden.documents(tmp_path / "pipeline.yaml")
    strict.check_pipeline(documents)
    assert set(documents[0]["root"]["inputDefinitions"]["parameters"]) == {"config", "series", "keep", "overrides"}
