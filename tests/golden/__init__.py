"""Compiled pipelines to compare with; `make goldens` renews them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.command_line import ROOT
from twhin.pipelines import resources
from twhin.pipelines.compile import compile_pipeline
from twhin.pipelines.resources import Target
from twhin_core.config import file as config_file

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


def write(name: str, output: Path) -> None:
    """Compiles configs/local.yaml, whose values nobody tunes, as the golden of that name."""
    path, target = GOLDENS[name]
    source = config_file.read(str(ROOT / "configs/local.yaml"))
    compile_pipeline(source, resources.load(str(ROOT / path)), target, str(output))


def documents(path: Path) -> list[Any]:
    """The YAML documents of a compiled pipeline, without the version of the SDK that compiled it."""
    found = list(yaml.load_all(path.read_text(), yaml.CSafeLoader))
    del found[0]["sdkVersion"]
    return found
