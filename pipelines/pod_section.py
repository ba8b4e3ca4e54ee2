"""The `pod` section of a resources file: what Kubernetes lets a pod say about itself. Kubeflow only."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from twhin.pipelines.machines import in_cores, in_gib
from twhin_core.config.section import Section

Cores = Annotated[str, Field(pattern=r"^\d+(\.\d+)?m?$", max_length=20)]
Bytes = Annotated[str, Field(pattern=r"^\d+([EPTGMK]i?)?$", max_length=20)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Path = Annotated[str, Field(pattern=r"^/[^:]+$")]
PREFIX = r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?"
Label = Annotated[str, Field(pattern=rf"^{PREFIX}[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?$")]
"""The key of a label, annotation, taint or resource."""
LabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$")]
Id = Annotated[int, Field(ge=0, lt=2**31)]


class Requests(Section):
    """What the scheduler reserves, if less than the limits."""

    cpu: Cores | None = Field(None, description="Cores. Default: `cpu` of the stage.")
    memory: Bytes | None = Field(None, description="Memory. Default: `memory` of the stage.")


class Size(Section):
    """Cores and memory."""

    cpu: Cores = Field(description='Cores, such as "4" or "500m". On Kubernetes, the limit.')
    memory: Bytes = Field(description='Memory, such as "16Gi". On Kubernetes, the limit.')
    requests: Requests = Field(
        Requests(), description="What the scheduler reserves. Default: as much as the limits. Kubeflow only."
    )

    @model_validator(mode="after")
    def _requests_within_limits(self) -> Size:
        for key, amount in (("cpu", in_cores), ("memory", in_gib)):
            request, limit = getattr(self.requests, key), getattr(self, key)
            if request is not None and amount(request) > amount(limit):
                raise ValueError(f"requests.{key}: {request} is more than the limit, {limit}")
        return self

    @property
    def requested(self) -> dict[str, str]:
        """The requests, with the limits where nothing else is asked for."""
        return {"cpu": self.requests.cpu or self.cpu, "memory": self.requests.memory or self.memory}


class Toleration(Section):
    """A node taint that the stage's pods tolerate."""

    key: str = Field(description="The taint's key.")
    operator: Literal["Equal", "Exists"] = Field("Equal", description="`Equal` compares `value`; `Exists` ignores it.")
    value: str | None = Field(None, description="The taint's value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="The taint's effect. Null matches every effect."
    )


class Placement(Section):
    """Which nodes to run on."""

    node_selector: dict[str, str] | None = Field(
        None, description="Labels of the nodes to run on, such as that of a node pool. Kubeflow only."
    )
    tolerations: list[Toleration] = Field([], description="Node taints to tolerate. Kubeflow only.")


class NodeRule(Section):
    """A condition on a node's label. Rules without a weight must all hold; the others are preferences."""

    key: Label = Field(description="The label's key.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"] = Field(
        "In", description="How the label is compared with `values`."
    )
    values: list[LabelValue] = Field(
        [], description="Values to compare with: any number for `In` and `NotIn`, one for `Gt` and `Lt`."
    )
    weight: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description="How much nodes where the rule holds are preferred. Default: the rule is required."
    )

    @model_validator(mode="after")
    def _has_its_values(self) -> NodeRule:
        count = len(self.values)
        needed = {"In": "at least one value", "NotIn": "at least one value", "Gt": "one value", "Lt": "one value"}
        fits = {"In": count > 0, "NotIn": count > 0, "Gt": count == 1, "Lt": count == 1}.get(self.operator, count == 0)
        if not fits:
            raise ValueError(f"values: {self.operator} needs {needed.get(self.operator, 'no values')}, got {count}")
        return self


class PodVolume(Section):
    """A volume of a stage's pods, beside the shared `volume`: a PersistentVolumeClaim or a folder of the node."""

    claim: Name | None = Field(None, description="Name of a PersistentVolumeClaim.")
    host_path: Path | None = Field(
        None,
        description="Folder of the node, such as a cache on its disks. Needs `allow_host_path`. Only the nodes of a "
        "TrainJob, readers and Katib's trials.",
    )
    mount: Path = Field(description="Mount path.")
    sub_path: str = Field("", description="Folder of the claim to mount. Default: its top.")
    read_only: bool = Field(
        False,
        description="Whether the pods may only read it. Only the nodes of a TrainJob, readers and Katib's trials.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> PodVolume:
        self.exactly_one("claim", "host_path")
        return self


class Security(Section):
    """What the pods' processes may do."""

    non_root: bool = Field(True, description="Whether Kubernetes refuses to start an image as root.")
    user: Id | None = Field(None, description="User id. Default: that of the image, 1000.")
    group: Id | None = Field(None, description="Group id. Default: that of the image, 1000.")
    read_only: bool | None = Field(
        None,
        description="Whether the root file system is read-only; /tmp and /dev/shm stay writable. Default: true for the "
        "nodes of a TrainJob, readers and Katib's trials. Kubeflow Pipelines cannot set it for other pods.",
    )
    seccomp: Literal["RuntimeDefault", "Unconfined"] | None = Field(
        None,
        description="Filter of system calls. Default: `RuntimeDefault` for the nodes of a TrainJob, readers and "
        "Katib's trials. Kubeflow Pipelines cannot set it for other pods.",
    )

    @model_validator(mode="after")
    def _not_root(self) -> Security:
        if self.non_root and self.user == 0:
            raise ValueError("user: 0 is root; set non_root to false as well if the image needs it")
        return self


class Pod(Section):
    """What else Kubernetes is told about pods."""

    labels: dict[Label, LabelValue] = Field(
        {},
        description="Labels, added to those of all pods. Those of Kueue (`kueue.x-k8s.io/…`) go to a TrainJob or a Job "
        "(of readers or of a trial) and not to its pods.",
    )
    annotations: dict[Label, str] = Field({}, description="Annotations, added to those of all pods.")
    image_pull_secrets: list[Name] = Field([], description="Names of Secrets with logins of the image's registry.")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        None, description="When nodes pull the image. A TrainJob has that of its TrainingRuntime."
    )
    priority_class: Name | None = Field(
        None,
        description="PriorityClass. Only readers and Katib's trials; a TrainJob has that of its TrainingRuntime.",
    )
    shm: Bytes | None = Field(
        None, description="Size of /dev/shm. Default: limited only by memory with GPUs, and 64 MiB without."
    )
    affinity: list[NodeRule] = Field([], description="Conditions on the labels of nodes.")
    volumes: list[PodVolume] = Field([], description="Volumes beside the shared `volume`.")
    security: Security = Field(Security(), description="What the pods' processes may do.")

    def over(self, general: Pod) -> Pod:
        """This section, with what it does not set taken from `general`; labels and annotations of both."""
        added = {key: {**getattr(general, key), **getattr(self, key)} for key in ("labels", "annotations")}
        own = {key: getattr(self, key) for key in self.model_fields_set}
        return general.model_copy(update={**own, **added})


class Topology(Section):
    """Where the machines of one role are, seen from each other, by the keys of nodes' labels."""

    together: Label | None = Field(
        None, description="All where this label has one value, such as `topology.kubernetes.io/zone`."
    )
    apart: Label | None = Field(
        None, description="Each where this label has another value, such as `kubernetes.io/hostname`."
    )
    required: bool = Field(True, description="Whether to wait for such nodes rather than only prefer them.")
