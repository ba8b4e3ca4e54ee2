"""What each stage needs of a cluster's machines: `configs/resources/*.yaml`, typed."""

from __future__ import annotations

from typing import Annotated, Literal

import yaml
from pydantic import Field

from components.image import IMAGE
from twhin_core import config_file, storage
from twhin_core.config import not_yet
from twhin_core.config_section import Section
from twhin_core.errors import UserError

Target = Literal["kubeflow", "vertex"]


class Accelerator(Section):
    """GPUs of one machine, by the name that each target has for them."""

    count: Annotated[int, not_yet(1)] = Field(
        1, description="GPUs; the train step runs one process, so more than one are not supported yet."
    )
    kubeflow: str = Field("nvidia.com/gpu", pattern=r"^[a-z0-9.-]+/[\w.-]+$", description="Resource name of the GPUs.")
    vertex: str = Field("NVIDIA_L4", pattern=r"^[A-Z][A-Z0-9_]+$", description="Accelerator type of Vertex AI.")


class StageResources(Section):
    """One stage's machine; KFP takes both figures as limits, which Kubernetes then also requests."""

    cpu: str = Field(pattern=r"^\d+(\.\d+)?m?$", description='Cores, such as "4" or "500m".')
    memory: str = Field(pattern=r"^\d+([EPTGMK]i?)?$", description='Bytes, such as "16Gi".')
    accelerator: Accelerator | None = Field(None, description="Left out: no GPU.")


class Resources(Section):
    """A resources file."""

    image: str = Field(IMAGE, pattern=r":[\w.-]+$|@sha256:[0-9a-f]{64}$", description="Image with its tag or digest.")
    prepare: StageResources
    train: StageResources
    evaluate: StageResources
    export: StageResources


def load(path: str) -> Resources:
    """Reads a resources file. Raises UserError where it is missing or names an unknown key or a wrong value."""
    if not storage.exists(path):
        raise UserError(f"{path}: no such resources file")
    try:
        tree = yaml.safe_load(storage.read_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    return config_file.validate(Resources, tree, path)
