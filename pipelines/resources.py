"""The schema of `configs/resources/*.yaml`: what each stage needs from a cluster's machines.

A key that a target does not support is an error when the pipeline is compiled for it, and is never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from twhin.components.image import IMAGE
from twhin.pipelines.machines import GPUS, Gpu, GpuType
from twhin.pipelines.pod_section import Bytes, Label, Name, Path, Placement, Pod, Size, Topology
from twhin.pipelines.vertex_section import DiskType, Reservation, Vertex
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
Duration = Annotated[str, Field(pattern=r"^[1-9]\d*[smhd]$", max_length=10)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def in_seconds(duration: str) -> int:
    return int(duration[:-1]) * SECONDS[duration[-1]]


class Accelerator(Section):
    """The GPUs of one machine. The stage runs one rank on each."""

    type: GpuType | None = Field(
        None,
        description="Kubeflow: `nvidia.com/gpu`, on nodes with GKE's label for that type unless `node_selector` is "
        "set. Vertex AI: the accelerator type, which together with `count` determines the machine types.",
    )
    resource: Label | None = Field(
        None,
        description="In place of `type`, the name of any resource of the nodes, such as `amd.com/gpu`, "
        "`nvidia.com/mig-1g.5gb` or, for any other GPU of NVIDIA, `nvidia.com/gpu` with a `node_selector` such as "
        "`{nvidia.com/gpu.product: NVIDIA-A10G}`. Kubeflow only.",
    )
    count: Few = Field(1, description="GPUs per machine.")

    @model_validator(mode="after")
    def _type_or_resource(self) -> Accelerator:
        self.exactly_one("type", "resource")
        if self.resource is not None and "/mig-" in self.resource and self.count > 1:
            raise ValueError(f"count: CUDA finds one MIG slice per machine, not {self.count}; use more `nodes`")
        return self


class Stage(Placement, Size):
    """The machine of one stage."""

    disk: Bytes | None = Field(
        None, description="Kubeflow: the maximum size of /tmp on the node's disk. Vertex AI: the size of the boot disk."
    )
    image: Image | None = Field(None, description="Image of this stage. Default: the `image` of the file.")
    spot: bool = Field(False, description="Use spot machines: GKE's label and taint, or Vertex AI's strategy `SPOT`.")
    retries: int = Field(
        3, ge=0, le=1000, description="Retries, after 1, 2, 4 … minutes. Training resumes from its newest checkpoint."
    )
    timeout: Duration | None = Field(None, description='Time limit of one attempt, such as "12h".')
    service_account: str | None = Field(
        None,
        description="Service account of the machines. Vertex AI default: that of the run. On Kubeflow only the nodes "
        "of a TrainJob and Katib's trials can have their own; other pods have that of the run "
        "(`twhin submit --service-account`).",
    )
    reservation: Reservation | None = Field(
        None,
        description="Where machines come from: `any` reservation that fits, `none`, or the one named "
        "`projects/…/zones/…/reservations/…`. Vertex AI only.",
    )
    disk_type: DiskType | None = Field(
        None, description="Type of the boot disk. Default: `pd-ssd`, or what the machine supports. Vertex AI only."
    )
    pod: Pod = Field(Pod(), description="What else Kubernetes is told about the pods. Kubeflow only.")

    @model_validator(mode="after")
    def _spot_or_reserved(self) -> Stage:
        if self.spot and self.reservation not in (None, "none"):
            raise ValueError("reservation: spot machines come from no reservation")
        return self

    @property
    def timeout_in_s(self) -> int | None:
        return in_seconds(self.timeout) if self.timeout else None

    @property
    def has_several_machines(self) -> bool:
        return False


class RankedStage(Stage):
    """A stage that can use GPUs."""

    accelerator: Accelerator | None = Field(None, description="GPUs. Default: none.")


class Readers(Placement, Size):
    """Processes on separate machines that read the training edges for the trainers.

    A reader's memory holds three windows of `train_data.shuffle_buffer` edges.
    """

    count: Few = Field(description="Number of machines, with one process each.")
    token: str = Field(
        description="The token that trainers send to readers. Kubeflow: the name of a Secret that has it under the key "
        "`token`. Vertex AI: a gs:// file."
    )
    pod: Pod = Field(Pod(), description="What else Kubernetes is told about the pods. Kubeflow only.")
    topology: Topology = Field(Topology(), description="Where the machines are. Kubeflow only.")


class TrainStage(RankedStage):
    """Training, the only stage that can use several machines."""

    nodes: Few = Field(1, description="Number of training machines, each with the GPUs above.")
    readers: Readers | None = Field(None, description="Reader processes. Default: none, the trainers read edges.")
    topology: Topology = Field(Topology(), description="Where the machines of a TrainJob are. Kubeflow only.")
    runtime: Name = Field(
        "twhin",
        description="The TrainingRuntime of the TrainJob, a copy of `deploy/training-runtime.yaml` with what a "
        "TrainJob cannot set, such as a priority class. Kubeflow only.",
    )
    abandoned_after: Duration = Field(
        "15m",
        description="How long the machines of a TrainJob go on after the task that follows it was killed. They then "
        "write a checkpoint and end. Kubeflow only.",
    )

    @model_validator(mode="after")
    def _beats_in_time(self) -> TrainStage:
        if in_seconds(self.abandoned_after) < 180:
            raise ValueError(f"abandoned_after: {self.abandoned_after} is less than 3m, which an outage may last")
        return self

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
    pod: Pod = Field(Pod(), description="As `pod` of each stage and of the readers that does not set a key itself.")
    allow_host_path: bool = Field(
        False,
        description="Whether volumes may be folders of nodes, which gives pods access to them. Kubeflow only.",
    )
    vertex: Vertex = Field(Vertex(), description="What Vertex AI is told about every stage. Vertex AI only.")
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

    def pod_of(self, of: Stage | Readers) -> Pod:
        """What Kubernetes is told about the pods of a stage or of the readers."""
        return of.pod.over(self.pod)

    def image_of(self, stage: Stage) -> str:
        return stage.image or self.image or (f"{IMAGE}-cuda" if accelerator_of(stage) else IMAGE)


def accelerator_of(of: Placement) -> Accelerator | None:
    return of.accelerator if isinstance(of, RankedStage) else None


def gpu_of(accelerator: Accelerator | None) -> Gpu | None:
    """The GPU, if it is one that the platforms know by its type."""
    return GPUS[accelerator.type] if accelerator is not None and accelerator.type is not None else None


def refuse(resources: Resources, keys: Iterable[str], stage_keys: Iterable[str], why: str) -> None:
    """Raises UserError for the first of `keys`, or of any stage's `stage_keys`, that the file sets."""
    refuse_keys(resources, "", keys, why)
    for name, stage in resources.stages().items():
        refuse_keys(stage, f"{name}.", stage_keys, why)


def refuse_keys(section: Section, prefix: str, keys: Iterable[str], why: str) -> None:
    """Raises UserError for the first of `keys` that a section has and that is not at its default."""
    fields = type(section).model_fields
    for key in keys:
        if key in fields and getattr(section, key) != fields[key].default:
            raise UserError(f"{prefix}{key}: {why}")


def load(path: str) -> Resources:
    """Reads a resources file. Raises UserError if it is missing, or has an unknown key or an invalid value."""
    if not storage.exists(path):
        raise UserError(f"{path}: no such resources file")
    return config_file.validate(Resources, read_yaml(storage.read_text(path), path), path)
