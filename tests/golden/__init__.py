"""Compiled pipelines to compare with; `make goldens` renews them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from kfp import compiler

from tests.command_line import ROOT
from twhin.components.evaluate.component import evaluate
from twhin.components.export.component import export
from twhin.components.plan.component import plan
from twhin.components.prepare.component import prepare
from twhin.components.publish.component import publish
from twhin.components.recommend.component import recommend
from twhin.components.train.component import train
from twhin.pipelines import resources
from twhin.pipelines.compile import compile_pipeline
from twhin.pipelines.resources import Target
from twhin_core.config import file as config_file
from twhin_core.config.file import ConfigText
from twhin_core.series.continued import check_refresh

FOLDER = Path(__file__).parent
GOLDENS: dict[str, tuple[str, Target]] = {
    f"{preset}.{target}.yaml": (f"configs/resources/{preset}.yaml", target)
    for preset, target in (
        ("cpu-small", "kubeflow"),
        ("gpu-1", "kubeflow"),
        ("gpu-1", "vertex"),
        ("a100x16-2nodes", "kubeflow"),
        ("a100x16-2nodes", "vertex"),
        ("h100x8", "vertex"),
    )
}
REFRESHES: dict[str, tuple[str, Target]] = {
    f"refresh.{preset}.{target}.yaml": (f"configs/resources/{preset}.yaml", target)
    for preset, target in (("cpu-small", "kubeflow"), ("a100x16-2nodes", "kubeflow"), ("gpu-1", "vertex"))
}

TEST_DATA = "test_data.data_root=/tmp/data/test/*.parquet"

COMPONENTS = {component.name: component for component in (prepare, train, evaluate, export, recommend, plan, publish)}


def write_component(name: str, output: Path) -> None:
    """A stage as a file for `kfp.components.load_component_from_file`; its image has the version in its tag."""
    compiler.Compiler().compile(COMPONENTS[name], str(output))


def source() -> ConfigText:
    """configs/local.yaml, whose values nobody tunes, with edges to evaluate on."""
    return config_file.read(str(ROOT / "configs/local.yaml"), [TEST_DATA])


def write(name: str, output: Path) -> None:
    """Compiles the golden of that name."""
    if name in REFRESHES:
        path, target = REFRESHES[name]
        raw = ["prepare.sources.0.path=gs://bucket/raw/*.parquet"]
        config = config_file.read(str(ROOT / "configs/series/daily.yaml"), raw, check_refresh)
        needs, series = resources.load(str(ROOT / path)), "gs://bucket/series"
        compile_pipeline(config, needs, target, str(output), series=series)
    else:
        path, target = GOLDENS[name]
        compile_pipeline(source(), resources.load(str(ROOT / path)), target, str(output))


def documents(path: Path) -> list[Any]:
    """The YAML documents of a compiled pipeline, without the version of the SDK that compiled it."""
    found = list(yaml.load_all(path.read_text(), yaml.CSafeLoader))
    del found[0]["sdkVersion"]
    return found
