"""The schema of `configs/resources/*.yaml`: what each stage needs from a cluster's machines.

A key that a target does not support is an error when the pipeline is compiled for it, and is never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from twhin.components.image import IMAGE
from twhin.pipelines.machines import GpuType
from twhin_core import __version__, storage
from twhin_core.config import file as config_file
from twhin_core.config.numbers import Few
from twhin_core.config.section import Section
from twhin_core.config.yaml_reader import read_yaml
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
            f"the tag {tag[1]!r} is not of this version; use {__version__}, a tag that starts with {__version__}-, "
            "or a digest"
        )
    return image


Image = Annotated[str, Field(min_length=1), AfterValidator(_of_this_version)]
Cores = Annotated[str, Field(pattern=r"^\d+(\.\d+)?m?$", max_length=20)]
Bytes = Annotated[str, Field(pattern=r"^\d+([EPTGMK]i?)?$", max_length=20)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Path = Annotated[str, Field(pattern=r"^/[^:]+$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Accelerator(Section):
    """The GPUs of one machine. The stage runs one rank on each."""

    type: GpuType = Field(
        description="Kubeflow: `nvidia.com/gpu`, on nodes with GKE's label for that type unless `node_selector` is "
        "set. Vertex AI: the accelerator type, which together with `count` determines the machine types."
    )
    count: Few = Field(1, description="GPUs per machine.")


class Toleration(Section):
    """A node taint that the stage's pods tolerate."""

    key: str = Field(description="The taint's key.")
    operator: Literal["Equal", "Exists"] = Field("Equal", description="`Equal` compares `value`; `Exists` ignores it.")
    value: str | None = Field(None, description="The taint's value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="The taint's effect. Null matches every effect."
    )


class Stage(Section):
    """The machine of one stage."""

    cpu: Cores = Field(description='Cores, such as "4" or "500m". On Kubernetes, both the request and the limit.')
    memory: Bytes = Field(description='Memory, such as "16Gi". On Kubernetes, both the request and the limit.')
    disk: Bytes | None = Field(
        None, description="Kubeflow: the maximum size of /tmp on the node's disk. Vertex AI: the size of the boot disk."
    )
    image: Image | None = Field(None, description="Image of this stage. Default: the `image` of the file.")
    spot: bool = Field(False, description="Use spot machines: GKE's label and taint, or Vertex AI's strategy `SPOT`.")
    retries: int = Field(
        3, ge=0, le=1000, description="Retries, after 1, 2, 4 … minutes. Training resumes from its newest checkpoint."
    )
    timeout: Annotated[str, Field(pattern=r"^[1-9]\d*[smhd]$", max_length=10)] | None = Field(
        None, description='Time limit of one attempt, such as "12h".'
    )
    node_selector: dict[str, str] | None = Field(None, description="Labels of the nodes to run on. Kubeflow only.")
    tolerations: list[Toleration] = Field([], description="Node taints to tolerate. Kubeflow only.")
    service_account: str | None = Field(
        None,
        description="Service account of the machines. Vertex AI default: that of the run. On Kubeflow only the nodes "
        "of a TrainJob can have their own; other pods have that of the run (`twhin submit --service-account`).",
    )

    @property
    def timeout_in_s(self) -> int | None:
        return int(self.timeout[:-1]) * SECONDS[self.timeout[-1]] if self.timeout else None

    @property
    def has_several_machines(self) -> bool:
        return False


class RankedStage(Stage):
    """A stage that can use GPUs."""

    accelerator: Accelerator | None = Field(None, description="GPUs. Default: none.")


class Readers(Section):
    """Processes on separate machines that read the training edges for the trainers."""

    count: Few = Field(description="Number of machines, with one process each.")
    cpu: Cores = Field(description="Cores per machine.")
    memory: Bytes = Field(
        description="Memory per machine. A reader holds three windows of `train_data.shuffle_buffer` edges."
    )
    token: str = Field(
        description="The token that trainers send to readers. Kubeflow: the name of a Secret that has it under the key "
        "`token`. Vertex AI: a gs:// file."
    )


class TrainStage(RankedStage):
    """Training, the only stage that can use several machines."""

    nodes: Few = Field(1, description="Number of training machines, each with the GPUs above.")
    readers: Readers | None = Field(None, description="Reader processes. Default: none, the trainers read edges.")

    @property
    def has_several_machines(self) -> bool:
        return self.nodes > 1 or self.readers is not None


class Volume(Section):
    """A PersistentVolumeClaim that every pod mounts. Several nodes need one with access mode ReadWriteMany."""

    claim: Name = Field(description="Name of the claim.")
    mount: Path = Field(description="Mount path. Pods share a run root below it.")


class Secret(Section):
    """A Kubernetes Secret, such as credentials, as files or as environment variables."""

    name: Name = Field(description="Name of the Secret.")
    mount: Path | None = Field(None, description="Mount path, which gets one file per key.")
    env: dict[Variable, str] | None = Field(
        None, description="Environment variables, each with the key of the Secret that has its value."
    )

    @model_validator(mode="after")
    def _as_files_or_variables(self) -> Secret:
        self.exactly_one("mount", "env")
        return self


LIGHT = Stage(cpu="1", memory="4Gi")
"""For a step that reads manifests."""


class Resources(Section):
    """A resources file."""

    image: Image | None = Field(
        None, description="Image of every stage. Default: that of this version, with CUDA for a stage with GPUs."
    )
    env: dict[Variable, str] = Field({}, description="Environment variables of every stage.")
    secrets: list[Secret] = Field([], description="Secrets of every stage. Kubeflow only.")
    volume: Volume | None = Field(None, description="A volume for every stage. Kubeflow only.")
    prepare: Stage = Field(description="The prepare stage.")
    train: TrainStage = Field(description="The train stage.")
    evaluate: RankedStage = Field(description="The evaluate stage.")
    export: Stage = Field(description="The export stage.")
    recommend: RankedStage | None = Field(None, description="The recommend stage. Default: as evaluate.")
    plan: Stage = Field(LIGHT, description="The first step of a refresh.")
    publish: Stage = Field(LIGHT, description="The last step of a refresh.")

    def stages(self) -> dict[str, Stage]:
        return {
            "prepare": self.prepare, "train": self.train, "evaluate": self.evaluate, "export": self.export,
            "recommend": self.recommend or self.evaluate, "plan": self.plan, "publish": self.publish,
        }  # fmt: skip

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
    """Reads a resources file. Raises UserError if it is missing, or has an unknown key or an invalid value."""
    if not storage.exists(path):
        raise UserError(f"{path}: no such resources file")
    return config_file.validate(Resources, read_yaml(storage.read_text(path), path), path)
