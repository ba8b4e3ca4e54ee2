"""The pipeline as a YAML that a cluster runs."""

from __future__ import annotations

import difflib
import os
import tempfile
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler, dsl
from kfp.dsl.base_component import BaseComponent

from twhin.pipelines import kubeflow, pipeline, vertex
from twhin.pipelines.resources import Resources, Target
from twhin_core.config import Config
from twhin_core.config import file as config_file
from twhin_core.errors import TwhinError, UserError

TARGETS = {"kubeflow": kubeflow, "vertex": vertex}
PAUSE, LONGEST_PAUSE = "60s", "3600s"
"""Before the first retry, and before any; each pause is twice the one before."""


class OutOfDate(TwhinError):
    """A compiled file is not what would be compiled now."""


def compile_pipeline(
    config: Config, resources: Resources, target: Target, output: str, run_root: str | None = None
) -> None:
    """Writes the pipeline for `target` to `output`, with `config` as the default of its parameter.

    The parameter `run_root` has no default unless one is given. For Kubeflow a second YAML document follows, with
    what only Kubernetes knows; Vertex AI reads one document alone.

    Raises:
        UserError: `output` is not a YAML's name, `run_root` is a place that no cluster sees, or `resources` ask for
            what the target does not have.
    """
    if not output.endswith((".yaml", ".yml")):
        raise UserError(f"--output {output}: expected a name that ends in .yaml")
    TARGETS[target].check(resources, run_root)
    start_on = TARGETS[target].start(resources)

    def start(component: BaseComponent, **inputs: Any) -> dsl.PipelineTask:
        task, retries = start_on(component, **inputs), resources.stages()[component.name].retries
        if retries:
            task.set_retry(retries, backoff_duration=PAUSE, backoff_factor=2.0, backoff_max_duration=LONGEST_PAUSE)
        return task

    defaults = {"config": config_file.to_line(config)}
    if run_root is not None:
        defaults["run_root"] = run_root
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=Path(output).parent) as aside:
        compiled = str(Path(aside) / "pipeline.yaml")
        compiler.Compiler().compile(pipeline.build(start), compiled, pipeline_parameters=defaults)
        os.replace(compiled, output)


def find_differences(
    config: Config, resources: Resources, target: Target, output: str, run_root: str | None = None
) -> str:
    """What differs between `output` and what `compile_pipeline` would write there: empty, or a unified diff.

    Raises:
        UserError: as `compile_pipeline`, or there is no such file.
    """
    if not Path(output).exists():
        raise UserError(f"{output}: no such file; leave out --check to write it")
    with tempfile.TemporaryDirectory() as aside:
        now = str(Path(aside) / "pipeline.yaml")
        compile_pipeline(config, resources, target, now, run_root)
        before, after = _lines(output), _lines(now)
    return "\n".join(difflib.unified_diff(before, after, output, "compiled now", lineterm="", n=2))


class _Readable(yaml.SafeDumper):
    """Texts of several lines, such as a component's code, stand as they are."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    text = "\n".join(line.rstrip() for line in text.split("\n"))  # else YAML would quote it
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _represent_text)


def _lines(path: str) -> list[str]:
    """A compiled file in lines that can be compared: keys in order, the default config as YAML."""
    try:
        documents = list(yaml.safe_load_all(Path(path).read_text()))
        parameters = documents[0]["root"]["inputDefinitions"]["parameters"]
        parameters["config"]["defaultValue"] = yaml.safe_load(parameters["config"]["defaultValue"])
    except (yaml.YAMLError, LookupError, TypeError) as error:
        raise UserError(f"{path}: not a compiled pipeline: {' '.join(str(error).split())}") from None
    return yaml.dump_all(documents, Dumper=_Readable, width=120, allow_unicode=True).splitlines()
