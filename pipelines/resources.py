"""What each stage needs of a cluster's machines: `configs/resources/*.yaml`, typed.

A key that a target cannot honour is an error when the pipeline is compiled for it, and never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Literal

import yaml
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, model_validator

from twhin.components.image import IMAGE
from twhin.pipelines.machines import GpuType
from twhin_core import __version__, storage
from twhin_core.config import file as config_file
from twhin_core.config.section import Section
from twhin_core.errors import UserError

Target = Literal["kubeflow", "vertex"]


def _of_this_version(image: str) -> str:
    if re.search(r"@sha256:[0-9a-f]{64}$", image):
        return image
    tag = re.search(r":([\w.-]+)$", image)
    if tag is None:
        raise ValueError(f"{image!r} has neither a tag nor a digest")
    if tag[1] != __version__ and not tag[1].startswith(f"{__version__}-"):
        raise ValueError(
            f"the tag {tag[1]!r} is not of this version; it must be {__version__}, or begin with {__version__}-, "
            "or be a digest"
        )
    return image


Image = Annotated[str, Field(min_length=1), AfterValidator(_of_this_version)]
Cores = Annotated[str, Field(pattern=r"^\d+(\.\d+)?m?$")]
Bytes = Annotated[str, Field(pattern=r"^\d+([EPTGMK]i?)?$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Path = Annotated[str, Field(pattern=r"^/[^:]+$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Accelerator(Section):
    """GPUs of one machine; the stage runs a rank on each."""

    type: GpuType = Field(
        description="Kubeflow: `nvidia.com/gpu`, on nodes with GKE's label of that type unless `node_selector` says "
        "which. Vertex AI: its accelerator type, and the machine type that so many come in."
    )
    count: PositiveInt = Field(1, description="GPUs a machine.")


class Toleration(Section):
    """A taint of nodes that the stage's pods put up with."""

    key: str = Field(description="The taint's key.")
    operator: Literal["Equal", "Exists"] = Field(
        "Equal", description="Whether `value` must be equal, or does not matter."
    )
    value: str | None = Field(None, description="The taint's value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="The taint's effect; null is any."
    )


class Stage(Section):
    """One stage's machine."""

    cpu: Cores = Field(description='Cores, such as "4" or "500m": the limit, which Kubernetes then also requests.')
    memory: Bytes = Field(description='Bytes, such as "16Gi"; likewise.')
    disk: Bytes | None = Field(
        None, description="Kubeflow: how much /tmp may take of the node's disk. Vertex AI: the size of the boot disk."
    )
    image: Image | None = Field(None, description="Another image than the file's.")
    spot: bool = Field(
        False,
        description="Machines that can be taken back, as GKE labels and taints them, or Vertex AI's strategy SPOT.",
    )
    retries: NonNegativeInt = Field(
        3, description="Further tries, after 1, 2, 4 … minutes; training goes on from its newest checkpoint."
    )
    timeout: Annotated[str, Field(pattern=r"^[1-9]\d*[smhd]$")] | None = Field(
        None, description='How long a try may take, such as "12h".'
    )
    node_selector: dict[str, str] | None = Field(None, description="Labels of the nodes to run on. Kubeflow only.")
    tolerations: list[Toleration] = Field([], description="Taints of nodes to put up with. Kubeflow only.")
    service_account: str | None = Field(
        None,
        description="Vertex AI: whom the machines work as, if not as the run. Kubeflow: likewise, for the nodes of a "
        "TrainJob; the pods of other stages have the account that the run is submitted with.",
    )

    @property
    def timeout_in_s(self) -> int | None:
        return int(self.timeout[:-1]) * SECONDS[self.timeout[-1]] if self.timeout else None


class RankedStage(Stage):
    """A stage that can use GPUs."""

    accelerator: Accelerator | None = Field(None, description="Left out: no GPU.")


class Readers(Section):
    """Processes on machines of their own that read the training edges for the trainers."""

    count: PositiveInt = Field(description="Machines, each with one process.")
    cpu: Cores = Field(description="Cores of each.")
    memory: Bytes = Field(
        description="Memory of each; a reader holds three windows of `train_data.shuffle_buffer` edges."
    )
    token: str = Field(
        description="Where the token is that the trainers show them. Kubeflow: the Secret that holds it as `token`. "
        "Vertex AI: a gs:// file."
    )


class TrainStage(RankedStage):
    """Training, which alone runs on several machines."""

    nodes: PositiveInt = Field(1, description="Machines that train together, each with the GPUs above.")
    readers: Readers | None = Field(None, description="Left out: the trainers read for themselves.")

    @property
    def has_several_machines(self) -> bool:
        return self.nodes > 1 or self.readers is not None


class Volume(Section):
    """A PersistentVolumeClaim that every pod mounts; several nodes need one that many can write (ReadWriteMany)."""

    claim: Name = Field(description="Name of the claim.")
    mount: Path = Field(description="Where; a run root below it is one that the pods share.")


class Secret(Section):
    """A Kubernetes Secret, such as credentials, as files or as variables."""

    name: Name = Field(description="Name of the Secret.")
    mount: Path | None = Field(None, description="Folder that holds a file for each of its keys.")
    env: dict[Variable, str] | None = Field(None, description="Environment variable: key of the Secret.")

    @model_validator(mode="after")
    def _as_files_or_variables(self) -> Secret:
        self.exactly_one("mount", "env")
        return self


class Resources(Section):
    """A resources file."""

    image: Image | None = Field(
        None, description="Left out: this version's, of which stages with an accelerator take the one with CUDA."
    )
    env: dict[Variable, str] = Field({}, description="Environment variables of every stage.")
    secrets: list[Secret] = Field([], description="Kubeflow only.")
    volume: Volume | None = Field(None, description="Kubeflow only.")
    prepare: Stage = Field(description="The stage prepare.")
    train: TrainStage = Field(description="The stage train.")
    evaluate: RankedStage = Field(description="The stage evaluate.")
    export: Stage = Field(description="The stage export.")

    def stages(self) -> dict[str, Stage]:
        return {"prepare": self.prepare, "train": self.train, "evaluate": self.evaluate, "export": self.export}

    def image_of(self, stage: Stage) -> str:
        return stage.image or self.image or (f"{IMAGE}-cuda" if accelerator_of(stage) else IMAGE)


def accelerator_of(stage: Stage) -> Accelerator | None:
    return stage.accelerator if isinstance(stage, RankedStage) else None


def refuse(resources: Resources, keys: Iterable[str], stage_keys: Iterable[str], why: str) -> None:
    """Raises UserError for the first of `keys`, or of any stage's `stage_keys`, that the file sets."""
    for key in keys:
        if key in resources.model_fields_set:
            raise UserError(f"{key}: {why}")
    for name, stage in resources.stages().items():
        for key in stage_keys:
            if key in stage.model_fields_set:
                raise UserError(f"{name}.{key}: {why}")


def load(path: str) -> Resources:
    """Reads a resources file. Raises UserError where it is missing or names an unknown key or a wrong value."""
    if not storage.exists(path):
        raise UserError(f"{path}: no such resources file")
    try:
        tree = yaml.safe_load(storage.read_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    return config_file.validate(Resources, tree, path)
