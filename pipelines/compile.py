"""The pipeline as a YAML that a cluster runs."""

from __future__ import annotations

import difflib
import os
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler, dsl
from kfp.dsl.base_component import BaseComponent

from twhin.components.task import configure
from twhin.pipelines import kubeflow, pipeline, vertex
from twhin.pipelines.resources import Resources, Target
from twhin_core.config.file import Source
from twhin_core.errors import TwhinError, UserError

TARGETS = {"kubeflow": kubeflow, "vertex": vertex}
CONFIG = "see root.inputDefinitions"
"""Stands for the config while KFP compiles: it breaks a file with a default of several lines by a comment."""


class OutOfDate(TwhinError):
    """A compiled file is not what would be compiled now."""


def compile_pipeline(
    source: Source, resources: Resources, target: Target, output: str, run_root: str | None = None
) -> None:
    """Writes the pipeline for `target` to `output`, with `source` as the default of its parameters
    `config` and `overrides`.

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
        return configure(start_on(component, **inputs), resources.stages()[component.name].retries)

    defaults: dict[str, Any] = {"config": CONFIG, "overrides": list(source.overrides)}
    if run_root is not None:
        defaults["run_root"] = run_root
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=Path(output).parent) as aside:
        compiled = str(Path(aside) / "pipeline.yaml")
        compiler.Compiler().compile(pipeline.build(start), compiled, pipeline_parameters=defaults)
        _put_config(compiled, source.text)
        os.replace(compiled, output)


def _put_config(path: str, text: str) -> None:
    """Puts the user's own text where CONFIG stands in the compiled file, as a block that reads as it was written."""
    compiled, place = Path(path).read_text(), f"        defaultValue: {CONFIG}\n"
    assert compiled.count(place) == 1
    node = yaml.ScalarNode("tag:yaml.org,2002:str", text, style="|")
    block = yaml.serialize(node, Dumper=yaml.SafeDumper, allow_unicode=True, width=1 << 30).removesuffix("...\n")
    Path(path).write_text(
        compiled.replace(place, place.replace(f"{CONFIG}\n", textwrap.indent(block, " " * 8).lstrip()))
    )


def find_differences(
    source: Source, resources: Resources, target: Target, output: str, run_root: str | None = None
) -> str:
    """What differs between `output` and what `compile_pipeline` would write there: empty, or a unified diff.

    Raises:
        UserError: as `compile_pipeline`, or there is no such file.
    """
    if not Path(output).exists():
        raise UserError(f"{output}: no such file; leave out --check to write it")
    with tempfile.TemporaryDirectory() as aside:
        now = str(Path(aside) / "pipeline.yaml")
        compile_pipeline(source, resources, target, now, run_root)
        before, after = _lines(output), _lines(now)
    return "\n".join(difflib.unified_diff(before, after, output, "compiled now", lineterm="", n=2))


class _Readable(yaml.SafeDumper):
    """Texts of several lines, such as a component's code, stand as they are."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    text = "\n".join(line.rstrip() for line in text.split("\n"))  # else YAML would quote it
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _represent_text)


def _lines(path: str) -> list[str]:
    """A compiled file in lines that can be compared: keys in order, texts as they are."""
    try:
        documents = list(yaml.safe_load_all(Path(path).read_text()))
        documents[0]["root"]["inputDefinitions"]["parameters"]["config"]["defaultValue"]
    except (yaml.YAMLError, LookupError, TypeError) as error:
        raise UserError(f"{path}: not a compiled pipeline: {' '.join(str(error).split())}") from None
    return yaml.dump_all(documents, Dumper=_Readable, width=120, allow_unicode=True).splitlines()
