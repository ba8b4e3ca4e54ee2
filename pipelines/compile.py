"""Compiles the pipeline to YAML for a cluster."""

from __future__ import annotations

import difflib
import os
import tempfile
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler, dsl
from kfp.dsl.base_component import BaseComponent

from twhin.components.task import configure
from twhin.pipelines import kubeflow, pipeline, refresh, vertex
from twhin.pipelines.resources import Resources, Target
from twhin_core.config import file as config_file
from twhin_core.config.file import ConfigText
from twhin_core.errors import TwhinError, UserError, in_one_line

TARGETS = {"kubeflow": kubeflow, "vertex": vertex}
CONFIG = "see root.inputDefinitions"
"""Placeholder for the config while KFP compiles. KFP copies defaults into a comment, where newlines are invalid."""


class OutOfDate(TwhinError):
    """A compiled file differs from what would be compiled now."""


def compile_pipeline(
    source: ConfigText,
    resources: Resources,
    target: Target,
    output: str,
    run_root: str | None = None,
    series: str | None = None,
    sweep: bool = False,
) -> None:
    """Writes the pipeline for `target` to `output`; with a `series`, that of its refresh; with `sweep`, that of one.

    `source` is the default of the parameters `config` and `overrides`; `run_root` and `series`, if given, are those of
    the parameters of these names. For Kubeflow the file has a second YAML document with settings for Kubernetes; Vertex
    AI accepts only one.

    Raises:
        UserError: `output` does not end in .yaml, the cluster cannot see `run_root`, or the target does not support
            the `resources` or the sweep.
    """
    if not output.endswith((".yaml", ".yml")):
        raise UserError(f"--output {output}: expected a name that ends in .yaml")
    TARGETS[target].check(resources, series or run_root)
    start_on = TARGETS[target].start(resources)

    def start(component: BaseComponent, **inputs: Any) -> dsl.PipelineTask:
        return configure(start_on(component, **inputs), resources.stages()[component.name].retries)

    defaults: dict[str, Any] = {"config": CONFIG, "overrides": list(source.overrides)}
    roots = {"run_root": run_root, "series": series}
    defaults |= {name: root for name, root in roots.items() if root is not None}
    build = pipeline.build if series is None else refresh.build
    if sweep:
        from twhin.pipelines import vertex_sweep  # imports Vertex AI's client

        config = config_file.parse(source.text, overrides=source.overrides)
        build = partial(vertex_sweep.build, config=config, resources=resources)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=Path(output).parent) as aside:
        compiled = str(Path(aside) / "pipeline.yaml")
        compiler.Compiler().compile(build(start), compiled, pipeline_parameters=defaults)
        _put_config(compiled, source.text)
        os.replace(compiled, output)


def _put_config(path: str, text: str) -> None:
    """Replaces CONFIG in the compiled file by the user's text, as a literal block."""
    compiled, place = Path(path).read_text(), f"        defaultValue: {CONFIG}\n"
    assert compiled.count(place) == 1
    node = yaml.ScalarNode("tag:yaml.org,2002:str", text, style="|")
    block = yaml.serialize(node, Dumper=yaml.SafeDumper, allow_unicode=True, width=1 << 30).removesuffix("...\n")
    Path(path).write_text(
        compiled.replace(place, place.replace(f"{CONFIG}\n", textwrap.indent(block, " " * 8).lstrip()))
    )


def find_differences(
    source: ConfigText,
    resources: Resources,
    target: Target,
    output: str,
    run_root: str | None = None,
    series: str | None = None,
    sweep: bool = False,
) -> str:
    """The unified diff from `output` to what `compile_pipeline` would write; empty if they are equal.

    Raises:
        UserError: as `compile_pipeline`, or `output` does not exist.
    """
    if not Path(output).exists():
        raise UserError(f"{output}: no such file; leave out --check to write it")
    with tempfile.TemporaryDirectory() as aside:
        now = str(Path(aside) / "pipeline.yaml")
        compile_pipeline(source, resources, target, now, run_root, series, sweep)
        before, after = _lines(output), _lines(now)
    return "\n".join(difflib.unified_diff(before, after, output, "compiled now", lineterm="", n=2))


class _Readable(yaml.SafeDumper):
    """Dumps multi-line strings, such as a component's code, as literal blocks."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    text = "\n".join(line.rstrip() for line in text.split("\n"))  # YAML quotes lines with trailing spaces
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _represent_text)


def _lines(path: str) -> list[str]:
    """The lines of a compiled file in a form that can be compared: sorted keys, literal strings."""
    try:
        documents = list(yaml.safe_load_all(Path(path).read_text()))
        documents[0]["root"]["inputDefinitions"]["parameters"]["config"]["defaultValue"]
    except (yaml.YAMLError, LookupError, TypeError) as error:
        raise UserError(f"{path}: not a compiled pipeline: {in_one_line(error)}") from None
    return yaml.dump_all(documents, Dumper=_Readable, width=120, allow_unicode=True).splitlines()
