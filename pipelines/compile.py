"""The pipeline as a YAML that a cluster runs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from kfp import compiler, dsl, kubernetes

from pipelines import pipeline
from pipelines.resources import Resources, Target
from twhin_core import config_file, storage
from twhin_core.config import Config
from twhin_core.errors import UserError

# Ranks of one machine exchange data there; in a container it holds 64 MB unless more is mounted.
SHARED_MEMORY = "/dev/shm"  # noqa: S108 -- a mount point, no file of ours


def compile_pipeline(
    config: Config, resources: Resources, target: Target, output: str, run_root: str | None = None
) -> None:
    """Writes the pipeline for `target` to `output`, with `config` as the default of its parameter.

    The parameter `run_root` has no default unless one is given. For Kubeflow a second YAML document follows, with
    what only Kubernetes knows; Vertex AI reads one document alone.

    Raises:
        UserError: `output` is not a YAML's name, or `run_root` is a place that no cluster sees.
    """
    if not output.endswith((".yaml", ".yml")):
        raise UserError(f"--output {output}: expected a name that ends in .yaml")
    if run_root is not None and target == "vertex" and not storage.is_remote(run_root):
        raise UserError(f"--run-root {run_root}: Vertex AI needs a gs:// prefix")

    def place(task: dsl.PipelineTask) -> None:
        _place(task, resources, target)

    defaults = {"config": config_file.to_line(config)}
    if run_root is not None:
        defaults["run_root"] = run_root
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=Path(output).parent) as aside:
        compiled = str(Path(aside) / "pipeline.yaml")
        compiler.Compiler().compile(pipeline.build(place), compiled, pipeline_parameters=defaults)
        os.replace(compiled, output)


def _place(task: dsl.PipelineTask, resources: Resources, target: Target) -> None:
    stage = getattr(resources, task.name)
    task.set_container_image(resources.image)
    task.set_cpu_limit(stage.cpu)
    task.set_memory_limit(stage.memory)
    if stage.accelerator is not None:
        task.set_accelerator_type(getattr(stage.accelerator, target))
        task.set_accelerator_limit(stage.accelerator.count)
    if target == "kubeflow" and task.name == "train":
        kubernetes.empty_dir_mount(task, volume_name="shm", mount_path=SHARED_MEMORY, medium="Memory")
