"""The pipeline compiled for each target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines import resources
from pipelines.compile import compile_pipeline
from pipelines.resources import Resources, Target
from tests import golden
from tests.command_line import ROOT, twhin
from twhin_core import config_file
from twhin_core.config import Config

STAGES = ["prepare", "train", "evaluate", "export"]


@pytest.fixture
def config() -> Config:
    return config_file.load(str(ROOT / "configs/local.yaml"))


@pytest.fixture
def gpu() -> Resources:
    return resources.load(str(ROOT / "configs/resources/gpu-1.yaml"))


def compiled(config: Config, needs: Resources, target: Target, folder: Path, run_root: str | None = None) -> list[Any]:
    output = folder / "pipeline.yaml"
    compile_pipeline(config, needs, target, str(output), run_root)
    assert [path.name for path in folder.iterdir()] == ["pipeline.yaml"]  # nothing is left beside it
    return golden.documents(output)


@pytest.mark.parametrize("name", golden.GOLDENS)
def test_golden(name: str, tmp_path: Path) -> None:
    golden.write(name, tmp_path / name)
    assert golden.documents(tmp_path / name) == golden.documents(golden.FOLDER / name), "see `make goldens`"


def test_vertex_gets_one_document_and_kubeflow_its_platform_beside(
    config: Config, gpu: Resources, tmp_path: Path
) -> None:
    assert len(compiled(config, gpu, "vertex", tmp_path)) == 1
    _, platform = compiled(config, gpu, "kubeflow", tmp_path)
    assert platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"] == {
        "exec-train": {"emptyDirMounts": [{"medium": "Memory", "mountPath": "/dev/shm", "volumeName": "shm"}]}
    }


def test_the_parameters_are_the_config_and_a_run_root_without_default(
    config: Config, gpu: Resources, tmp_path: Path
) -> None:
    (document,) = compiled(config, gpu, "vertex", tmp_path)
    parameters = document["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == {"config", "run_root"}
    assert config_file.parse(parameters["config"]["defaultValue"]) == config
    assert "defaultValue" not in parameters["run_root"]
    (document,) = compiled(config, gpu, "vertex", tmp_path, run_root="gs://bucket/run")
    assert document["root"]["inputDefinitions"]["parameters"]["run_root"]["defaultValue"] == "gs://bucket/run"


def test_every_stage_runs_in_the_one_image_with_its_resources(config: Config, gpu: Resources, tmp_path: Path) -> None:
    mine = gpu.model_copy(update={"image": "elsewhere/twhin:7"})
    (document,) = compiled(config, mine, "vertex", tmp_path)
    executors = document["deploymentSpec"]["executors"]
    assert set(executors) == {f"exec-{stage}" for stage in STAGES}
    for stage in STAGES:
        container = executors[f"exec-{stage}"]["container"]
        assert container["image"] == "elsewhere/twhin:7"
        assert "pip install" not in " ".join(container["command"])
        assert ("accelerator" in container["resources"]) == (stage == "train")
    train = executors["exec-train"]["container"]["resources"]
    assert (train["resourceCpuLimit"], train["resourceMemoryLimit"]) == ("8", "32Gi")
    assert (train["accelerator"]["resourceType"], train["accelerator"]["resourceCount"]) == ("NVIDIA_L4", "1")


def test_the_stages_follow_each_other_uncached_and_export_waits_for_the_gates(
    config: Config, gpu: Resources, tmp_path: Path
) -> None:
    (document,) = compiled(config, gpu, "vertex", tmp_path)
    tasks = document["root"]["dag"]["tasks"]
    order = {name: task.get("dependentTasks", []) for name, task in tasks.items()}
    assert order == {"prepare": [], "train": ["prepare"], "evaluate": ["train"], "condition-1": ["evaluate"]}
    inner = document["components"]["comp-condition-1"]["dag"]["tasks"]
    assert set(inner) == {"export"}
    assert tasks["condition-1"]["triggerPolicy"]["condition"].endswith("== true")
    for task in [tasks["prepare"], tasks["train"], tasks["evaluate"], inner["export"]]:
        assert not task["cachingOptions"].get("enableCache", False)


def test_the_command_compiles_a_file_that_both_readers_take(tmp_path: Path) -> None:
    output = tmp_path / "new" / "pipeline.yaml"
    ran = twhin(
        "compile", "configs/quickstart.yaml", "--resources", "configs/resources/cpu-small.yaml",
        "--target", "vertex", "--output", output, "--set", "training.num_epochs=3",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    (document,) = golden.documents(output)
    default = document["root"]["inputDefinitions"]["parameters"]["config"]["defaultValue"]
    assert config_file.parse(default).training.num_epochs == 3
